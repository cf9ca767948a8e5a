"""A denoiser at the client for the features that come back, after Split-N-Denoise (Mai et al., 2310.09130).

A client that sends activations with noise (``privacy.activations``) knows that noise, and the server does not. What
comes back in the features of the server's half is mended by it, and by the activation itself, before the client's own
head:

```text
f' = f - g * e + U V [e, z],   z the activation, e = what was sent - z,   trained with the head
```

by token. What the server sees is what it saw: activations are sent with the same noise, so epsilon of activations is
what it is without a denoiser. As ever with `training.labels: client`, gradients of features come back to the server,
which no epsilon bounds; through the head they depend on the noise that was taken out, too.

**This is another form than the paper's**, which denoises the output of a whole model at inference, by a transformer
that is trained beforehand on public text at the server. Here the server's half changes every round: the denoiser is
trained with the client's head, on its own texts, and is linear in the noise. It is a part of the head: it is sent,
merged by the weighted mean of its task group, delivered, counted, checkpointed and kept with it. Predictions of the run
are made with the noise and with the denoiser. It begins as nothing: without training, features stay as they are.
"""

from atlas_cli.config.schema.privacy import DenoiseConfig
from atlas_cli.privacy.mechanisms.contract import BaseMechanism


class Mechanism(BaseMechanism):
    """Takes the noise of activations out of the features that come back."""

    protects = "nothing by itself: it wins back some of what privacy.activations costs"
    Options = DenoiseConfig
