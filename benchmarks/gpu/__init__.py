"""What a machine with an NVIDIA GPU is asked: `check` runs everything else here, in one command."""
