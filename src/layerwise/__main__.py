"""`python -m layerwise` is the command `layerwise`, for an environment that is not on the path."""

from layerwise.cli import main

if __name__ == "__main__":
    main()
