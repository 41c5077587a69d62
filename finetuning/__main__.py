"""Fine-tune with the head in classifier.py, whatever else that file holds: the options are classifier.py's.

    ./setup.sh -m finetuning --quick
"""

from finetuning.settings import read_settings

settings = read_settings(__doc__)  # before PyTorch is imported, so that --help answers at once

from classifier import GPT2SentimentClassifier
from finetuning.run import main

main(settings, GPT2SentimentClassifier)
