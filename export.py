"""Export a classifier that classifier.py has trained: for Hugging Face's transformers, or as ONNX.

    ./setup.sh export.py --run runs/own-full-model --out exported                      a GPT2ForSequenceClassification
    ./setup.sh export.py --run runs/own-full-model --out exported-onnx --format onnx   model.onnx, for any ONNX runtime
    ./setup.sh export.py --run runs/own-full-model --out exported-page --format space  a page, as a Gradio Space
    ./setup.sh export.py --run runs/own-full-model --out exported --push you/name      and put it on the hub

The folder is compared with the trained model before it is kept. `classifier.py --model exported` reads it again, with
--keep-head the head, too.
"""

from serving.export_settings import read_settings

if __name__ == "__main__":
    settings = read_settings(__doc__)  # before PyTorch is imported, so that --help and mistakes answer at once

    from serving.export import main

    main(settings)
