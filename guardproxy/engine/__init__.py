"""The engine: runs models in this process. Importing the package, or its scheduler, does not import torch."""
