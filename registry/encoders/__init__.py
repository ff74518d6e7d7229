"""Networks, their weights and their twins. torch is imported by the modules of this package only when they are."""
