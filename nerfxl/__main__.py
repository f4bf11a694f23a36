"""`python -m nerfxl`: the command line, for launchers that start modules."""

from nerfxl.cli import main

if __name__ == "__main__":
    main()
