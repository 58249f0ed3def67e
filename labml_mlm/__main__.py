"""`python -m labml_mlm`, and the command `labml-mlm`."""
from labml_mlm.cli.main import main

if __name__ == '__main__':
    main()
