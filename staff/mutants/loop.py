"""Mistakes in training and evaluation. Students write none of it: tests of ours must notice them."""

from staff.mutants.edit import Mutant

RUN, LOOP, EVALUATE = "finetuning/run.py", "training/loop.py", "training/evaluate.py"
FEATURES, JOB = "finetuning/features.py", "finetuning/job.py"
END_TO_END = "tests/finetuning/test_run.py::"
SPLITS = "tests/finetuning/test_splits.py::test_splits_are_the_files"
LABELS = "[row.label for row in rows]"

MUTANTS = [
    Mutant("M70", EVALUATE, "dropout stays on in evaluation",
           "tests/training/test_evaluate.py::test_predicting_twice_gives_the_same_and_no_graph",
           (("        model.eval()\n", "        model.train()\n"),)),
    Mutant("M71a", RUN, "the dev score takes the argmax over the rows", f"{END_TO_END}test_it_learned",
           (("score(dev.labels, logits.argmax(dim=1)", "score(dev.labels, logits.argmax(dim=0)"),)),
    Mutant("M71b", RUN, "the predictions take the argmax over the rows",
           f"{END_TO_END}test_predictions_are_those_of_the_best_epoch",
           (("logits.argmax(dim=1).tolist(), split", "logits.argmax(dim=0).tolist(), split"),)),
    Mutant("M72", RUN, "the dev file gets the predictions of the test file",
           f"{END_TO_END}test_predictions_are_those_of_the_best_epoch",
           (("name, job.splits[name], job.model", 'name, job.splits["test"], job.model'),)),
    Mutant("M74a", FEATURES, "the training labels are shifted by one", SPLITS,
           ((LABELS, "[(row.label + (name == 'train')) % task.num_labels for row in rows]"),)),
    Mutant("M74b", FEATURES, "the training labels are sorted, the texts are not", SPLITS,
           ((LABELS, "sorted(row.label for row in rows)"),)),
    Mutant("M75a", LOOP, "the loss is detached from the graph",
           "tests/training/test_loop.py::test_a_step_takes_the_gradient_of_its_batch_mean",
           (("(outcome.loss * (weight * group.size)).backward()",
             "(outcome.loss.detach().requires_grad_() * (weight * group.size)).backward()"),)),
    Mutant("M75b", JOB, "the optimizer was made for other tensors than the model's",
           f"{END_TO_END}test_a_frozen_word_embedding_stays_and_the_rest_is_trained",
           (("return self.engine.optimizer(groups,",
             "return self.engine.optimizer(__import__('copy').deepcopy(groups),"),)),
    Mutant("M75c", LOOP, "gradients are not set to zero between steps",
           "tests/training/test_loop.py::test_a_step_takes_the_gradient_of_its_batch_mean",
           (("optimizer.step()\n                    optimizer.zero_grad(set_to_none=True)", "optimizer.step()"),)),
]
