"""Attacks on hegpu that anyone can rerun, each with a control that must be caught. Never imported by ``hegpu``."""
