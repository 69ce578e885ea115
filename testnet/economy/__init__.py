"""An agent simulation of the market: honest users and providers, one attacker, months of days, and what each earns."""
