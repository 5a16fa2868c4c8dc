"""Stepvault: serverless backup of databases and files on AWS into your own S3 bucket."""

__version__ = "0.1.0"
