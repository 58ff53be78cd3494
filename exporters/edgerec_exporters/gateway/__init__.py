"""The gateway: takes in devices' deltas over HTTP, checks them, keeps them, and hands them out in rounds.

docs/gateway.md is for whoever runs one. What is here needs the extra `gateway` of edgerec-exporters.
"""
