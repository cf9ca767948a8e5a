"""A trained model of a run as a folder that stock tools load: transformers, PEFT, sentence-transformers."""
