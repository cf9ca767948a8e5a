"""What leaves a client, what is done to it (``mechanisms``), and what that is worth (``accounting``, ``attacks``)."""
