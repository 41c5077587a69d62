"""Predict texts with a classifier that classifier.py has trained: a label, and a probability for each label.

    ./setup.sh predict.py --run runs/own-full-model "a fine film"               texts on the command line
    ./setup.sh predict.py --run runs/own-full-model --file new.csv --output tsv > answers.tsv
    ./setup.sh predict.py --run runs/own-full-model --explain "a fine film"     and each word's share in it

Reads txt, csv, tsv and jsonl, also from standard input, of any length.
"""

from serving.settings import read_settings

# Before PyTorch is imported, so that --help, a wrong flag and a missing file answer at once.
settings, texts = read_settings(__doc__) if __name__ == "__main__" else (None, [])

if __name__ == "__main__":
    from serving.run import main

    main(settings, texts)
