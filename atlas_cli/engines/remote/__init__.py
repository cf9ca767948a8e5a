"""Clients that compute in other processes: the calls, the state that is sent, and Ray, which places them."""
