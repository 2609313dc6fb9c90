"""What lies in ``deploy/``: each file read by the program it is for, or by that program's own checker."""
