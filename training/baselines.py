"""What any result has to be compared with: the majority class, and words counted without understanding them."""

from collections import Counter
from collections.abc import Sequence

from training.evaluate import Score, score


def majority_class(train_labels: Sequence[int], dev_labels: Sequence[int]) -> Score:
    """Always answer the most frequent training label (the smallest of them, if several are)."""
    counts = Counter(train_labels)
    answer = min(counts, key=lambda label: (-counts[label], label))
    return score(dev_labels, [answer] * len(dev_labels))


def tfidf_logistic_regression(train_texts: Sequence[str], train_labels: Sequence[int], dev_texts: Sequence[str],
                              dev_labels: Sequence[int]) -> Score:
    """Logistic regression on TF-IDF weights of words and pairs of words (scikit-learn, its default strength)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(train_labels)) < 2:
        return majority_class(train_labels, dev_labels)
    # Any run of word characters or any single other sign is a word: "!" and "n't" carry sentiment.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    model = make_pipeline(words, LogisticRegression(max_iter=1000)).fit(train_texts, train_labels)
    return score(dev_labels, model.predict(dev_texts).tolist())
