"""Make a page about finished runs: whether they are more than luck, what they
get wrong, and what to do about it.

    ./setup.sh -m report runs/sst-full-model           runs/.../report.html
    ./setup.sh -m report runs/sst-full-model-seeds     the same, of all seeds
    ./setup.sh -m report runs/A runs/B --out AB.html   a comparison
    ./setup.sh -m report runs/sst-full-model --live    the model, to type into

Each page is one file that needs no network; docs/report.md explains it.
"""

from report.settings import read_settings

# Before NumPy and PyTorch are imported, so that --help, a wrong flag and a missing folder answer at once.
settings, runs = read_settings(__doc__) if __name__ == "__main__" else (None, ())

if __name__ == "__main__":
    from report.page import main

    main(settings, runs)
