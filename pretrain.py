"""Pretrain a GPT-2 of any size on your own text: how models/gpt2-tiny was made.

    ./setup.sh pretrain.py --text reviews-*.txt.gz --out runs/pretrain --hidden_size 256 --tokens 40_000_000
    ./setup.sh pretrain.py ... --resume                    resume after an interruption, bit for bit

Text files are plain or gzip, UTF-8, one document a line. Trains a tokenizer, packs the documents into blocks, trains on
predicting the next token, and writes OUT/model in Hugging Face layout, which classifier.py --model OUT/model and
transformers load.
"""

from pretraining.settings import read_settings

if __name__ == "__main__":
    settings = read_settings(__doc__)  # before PyTorch is imported, so that --help answers at once

    from pretraining.run import main

    main(settings)
