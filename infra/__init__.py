"""The CDK app. Imported before anything of the CDK is."""

import os

# The CDK's language bridge fills the screen about every Node that is no longer young.
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "16,18,20,22,24")
