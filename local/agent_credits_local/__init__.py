"""The embedded stack: the template on an emulator of AWS, on this machine and nowhere else."""
