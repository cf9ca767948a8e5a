"""All checks that ``atlas train`` makes before it trains, without weights and without writing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import ExperimentConfig
    from atlas_cli.data.prepare import PreparedGroup
    from atlas_cli.planning.plan import Plan


def checked(
    config: ExperimentConfig, data: bool = True, ledger: Path | None = None
) -> tuple[Plan, dict[str, PreparedGroup], list[str]]:
    """The plan, the prepared data of every task group, and notes on what is not as it may seem.

    Args:
        data: read and check the data too; else there are no groups.
        ledger: the privacy ledger that the run is to be counted on.

    Raises:
        ConfigError, ResourceError, BudgetSpentError: what stands in the way of a run.
    """
    from atlas_cli.clustering.fingerprints import require_examples, takes_fingerprints
    from atlas_cli.config.clients_of_a_run import notes_on_clients
    from atlas_cli.data.prepare import prepare
    from atlas_cli.engines.remote.cluster import require_installed
    from atlas_cli.experiment.allocation.device_fit import fit_to_devices, must_fit
    from atlas_cli.federation.loaded_experiment import computing_device
    from atlas_cli.federation.warm_start import check_adapters, check_heads
    from atlas_cli.models.files.tokenizer_file import require_vocabulary
    from atlas_cli.models.frozen.load import load_tokenizer, require_weights
    from atlas_cli.planning.devices.clock_notes import clock_notes
    from atlas_cli.planning.memory_assumptions import cause_of_heads, unpredicted, waits_for_data
    from atlas_cli.planning.plan import make_plan
    from atlas_cli.privacy.account.accounting import require_accounting
    from atlas_cli.privacy.mechanisms import active_mechanisms
    from atlas_cli.trackers.of_a_run import load_trackers

    plan = make_plan(config)
    require_weights(config.model)
    computing_device(config)
    for noise in config.privacy.noises():
        require_accounting(f"privacy.{noise}")
    active_mechanisms(config.privacy)
    load_trackers(config.trackers)
    if config.engine.name == "ray":
        require_installed()
    notes = [*notes_on_clients(config), *clock_notes(config)]
    if data or not waits_for_data(config):
        fit_to_devices(plan.config, "uniform")
        notes += unpredicted(config) if must_fit(config) else []
    elif must_fit(config):
        notes.append(
            f"whether clients fit their devices is not checked: with {cause_of_heads(config)} a client has a head, as "
            "large as the data has classes; leave --no-data out, or give task_groups.NAME.classes"
        )
    check_adapters(plan)
    if not data:
        if config.privacy.budget is not None or ledger is not None:
            notes.append(
                "whether privacy.budget ends training is not checked, since epsilon depends on the clients' numbers of "
                "examples; leave --no-data out"
            )
        return plan, {}, notes
    tokenizer = load_tokenizer(config.model)
    require_vocabulary(tokenizer, plan.hf_config.vocab_size)
    prepared = prepare(config, tokenizer, plan.family.causal)
    check_heads(plan, prepared)
    if takes_fingerprints(config):
        require_examples({c: features for group in prepared.values() for c, features in group.train.items()})
    if config.privacy.budget is not None or ledger is not None:
        notes += _foreseen(plan, prepared, ledger)
    return plan, prepared, notes


def _foreseen(plan: Plan, prepared: dict[str, PreparedGroup], ledger: Path | None) -> list[str]:
    """What a privacy budget will do, and what is on the ledger."""
    from atlas_cli.experiment.run_budget import RunBudget
    from atlas_cli.planning.method import method_of
    from atlas_cli.privacy.account.budget import budget_of
    from atlas_cli.privacy.account.epsilon_account import EpsilonAccount

    config = plan.config
    train = {client: features for group in prepared.values() for client, features in group.train.items()}
    sends = bool(method_of(config).SENT)
    account = EpsilonAccount(plan, train.__getitem__, lambda client: config.training.batch_size, sends)
    account.find_multipliers()
    budget = RunBudget(config, account, budget_of(config, account), prepared, ledger)
    budget.require_start()
    return [note.partition(": ")[2] for note in budget.notes()]
