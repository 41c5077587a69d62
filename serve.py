"""Show a classifier that classifier.py has trained in a browser: type a text,
and see what it thinks word by word.

    ./setup.sh serve.py --run runs/sst-full-model   then http://127.0.0.1:8000

The model stays in Python, so it may have any size. For a small one,
`-m report RUN --live` writes a page that needs no server.
"""

from serving.serve_settings import read_settings

# Before PyTorch is imported, so that --help, a wrong flag and a missing run answer at once.
settings = read_settings(__doc__) if __name__ == "__main__" else None

if __name__ == "__main__":
    from report.live import served
    from serving.server import main

    main(settings, served)
