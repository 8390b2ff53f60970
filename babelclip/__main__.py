"""`python -m babelclip`: the command line where a module is asked for, as by torchrun; the same as `babelclip`."""

from babelclip.cli.main import main

if __name__ == "__main__":
    main()
