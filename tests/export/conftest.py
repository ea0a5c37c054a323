from exported import copied_bundle, tiny_bundle, tiny_run

__all__ = ["copied_bundle", "tiny_bundle", "tiny_run"]
