"""What demo, tests and benchmarks share: AWS and servers on this machine, lifelike data, comparison.

Nothing of it goes to Lambda.
"""
