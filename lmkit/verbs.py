"""The built-in verbs: where each is, and what it does in a few words."""

# verb -> (module in lmkit.cli, what it does)
VERBS = {
    "tasks": ("look", "List the tasks that can be trained."),
    "show": ("look", "Show a task, and one record at every stage."),
    "preview": ("preview", "Show what a model would be trained on, and what is wrong with it."),
    "train": ("train", "Train a model on a task."),
    "evaluate": ("train", "Measure a run or a bundle on records."),
    "export": ("export", "Write a bundle that answers without torch."),
    "verify": ("export", "Check that a bundle is whole and answers as it did."),
    "bench": ("bench", "Measure a bundle's speed and memory, beside others."),
    "compare": ("compare", "Answer the same records with two models, side by side."),
    "generate": ("generate", "Answer records with a run or a bundle."),
    "chat": ("chat", "Talk with a run or a bundle, in a terminal or a pipe."),
    "serve": ("serve", "Serve bundles over HTTP, with a playground."),
    "plugins": (
        "plugins",
        "List the plugins, what they add and cost, and what is wrong with them.",
    ),
    "new": ("new", "Write a plugin of your own: a task, its records and its tests."),
    "demo": ("demo", "See the whole path, offline, on packaged Korean data."),
    "env": ("look", "Print the versions and switches that matter in a bug report."),
}
