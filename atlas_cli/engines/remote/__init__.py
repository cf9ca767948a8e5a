"""Clients that compute in other processes: what is called there, what travels, and Ray, which places them."""
