"""The one place that states the version; setuptools and saved models read it from here."""

__version__ = "0.1.0"
