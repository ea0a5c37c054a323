"""What runs inside a side's own process: `serve.py`, and one `with_*.py` for each library.

None of these files but `with_lmkit.py` imports lmkit, so that a peer's worker runs in any virtual
environment that has the peer's library and numpy. `serve.py` is started as a script and loads the file
of its library.
"""
