"""``python -m sb3_varl.relabel``: the command of :mod:`sb3_varl.report.relabel`."""

from sb3_varl.report.relabel import main

if __name__ == "__main__":
    main()
