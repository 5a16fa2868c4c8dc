"""The Lambda functions: each file has one handler, which calls one function of the core."""
