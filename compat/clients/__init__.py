"""Clients that show a server's answers unchanged, and a real Redis to compare with."""
