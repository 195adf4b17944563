from .operations import check_operation as check_operation

__all__ = ["check_operation"]
