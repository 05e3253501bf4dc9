"""What the models of this package share: averaged weights, parts of networks, export, and how Lightning meets them."""

# Importing anomalib's models first runs the registration hook while nothing of this package is half imported; it then
# imports the models, which import from here: so nothing may be imported below from the modules of this package.
import anomalib.models  # noqa: F401
