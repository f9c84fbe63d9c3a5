"""The services of an installation: starting them, by role on several machines, examining them, their flow runs."""
