"""The run directory: what a run leaves, line by line.

    config.yaml      the resolved config
    manifest.json    status, versions, commit, platform, seed, command, model and data hashes, the config once more
    metrics.jsonl    a line a (round, task group); round 0 is before training
    clients.jsonl    a line a (round, client that had a part in it)
    clusters.jsonl   a line a clustering; with ``clustering`` only
    messages.jsonl   a line a (round, client, kind, direction): the byte ledger
    memory.json      bytes held by every client and the server, measured in one round
    sums.jsonl       of every line of the files above, by which damage is found (``runs.seals``)
    messages/        with ``audit``: messages as they crossed the wire (``federation.recording``), and index.jsonl
    audit.json       what ``atlas audit`` found (``privacy.audit``)
    log.txt          what happened, with ISO times
    report.html      self-contained

Units: bytes are bytes, ``seconds`` wall seconds. A figure that is not finite is written as null. Every file is
UTF-8; the JSON is strict.
``atlas_cli.runs.schemas`` holds the same tables as pydantic models; reading a run checks each line against them.

metrics.jsonl
    round, task_group
    train_loss          mean over the participants' local steps; null in round 0
    test                {metric: value}, the task's primary metric first; {} in a round without evaluation
    examples, tokens    trained on in this round; tokens without padding
    bytes_up, bytes_down  serialised, all kinds, all clients of the group (up: client to server)
    seconds             wall seconds of this group's part of the round: groups add up
    samples_per_second  examples by seconds of training alone; null in round 0
    aggregation_error   norm(delivered - X) / norm(X) against the exact sum X, root mean square over the group's
                        clients; null where it does not apply
    aggregation_truncation, aggregation_cross_term
                        its parts: what cutting ranks loses, and what the method's rule itself loses
    aggregation_by_layer
                        total, truncation and cross_term by layer; null where a group is merged in several clusters
    server_lr, client_lr  at the last step of the round; null in round 0
    simulated_seconds, simulated_joules  of the whole round on the virtual clock, all clients; null unless every
                        client that took part has a device with compute and links (joules: and watts)
    epsilon, delta      {channel: figure} of all rounds so far: what updates, activations, labels and fingerprints tell
                        (atlas_cli.privacy.account); "infinite" without a mechanism, 0 where nothing was sent
    epsilon_of          {channel: unit}, where there is a mechanism: one of what epsilon is for
    participants        clients of the group that are in the merge; [] in round 0
    dropped             {client: reason}: those of the cohort that are not
    norms               {mechanism: {before, clipped, sent, clip_fraction, noise_to_signal}} of what privacy.updates or
                        privacy.examples clips, means over participants (atlas_cli.privacy.account); absent without

clients.jsonl (all clients in round 0 and in the last; else the cohort, and who sent, was sent or was scored anything)
    round, client, task_group, participated
    cluster             whose adapters it is merged with; null: those of its task group
    train_loss, weight  null when the client took no part; weight is its share in the aggregate, null for a dropped one
    steps, examples, tokens, bytes_up, bytes_down
    held_sha256, delivered_sha256   of the adapters that the client holds and that the server delivered;
                        null where nothing is delivered
    local_test          {metric: value} on the client's own test part; null without one
    simulated           {compute, upload, server, download, wait: seconds that sum to the round's; finished: when its
                        adapters were sent; joules}; null as above
    norms               the same of this client; absent without a mechanism, and where it is not in the merge

clusters.jsonl
    round, by           that it comes before; as in the config
    assignment, moved   {client: cluster}; clients that another cluster has now
    silhouette_by_k     of fingerprints
    agreement           with the task groups; null where there is one

messages.jsonl
    round, client, kind, direction  "up" or "down"; kinds in ``records.KINDS``
    messages            how many
    bytes               as serialised, headers and names included
    payload_bytes       tensor data alone
    closed_form_bytes   what the formula says the tensor data must be; null where there is no formula

messages/index.jsonl (a line a recorded message)
    round, client, number, kind, direction, bytes   ``number``: its place among those of its client and round
    file, sha256        in messages/; null where ``audit.record.limit`` ended the recording with this message

sums.jsonl (a line for what was added to a file at once)
    file, crc32         of its lines, eight digits each; their SHA-256 is in the checkpoint and, at the end, in the
                        manifest (``records``)

memory.json (bytes)
    unit "bytes", measured_in_round
    clients   {name: {frozen_weights, adapters, heads, gradients, optimizer, saved_activations, cut_buffers, total,
              batch: {size, tokens}}}
    server    the same keys; null in modes without a server
    not_measured  who took no step in round 1, and is not among these
    references  {full_fine_tuning, unsplit_lora}: {weights, adapters, gradients, optimizer, saved_activations,
              total, how}
"""
