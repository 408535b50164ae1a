//! The language as data: every key with its shape and what it means. Files are checked against these tables, and the
//! JSON Schema that editors complete from is written from them, so that the two cannot disagree.

/// A key of a mapping.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) shape: Shape,
    /// What it means, for editors.
    pub(super) doc: &'static str,
}

/// What a value may look like.
pub(super) enum Shape {
    /// Anything; someone else checks it.
    Any,
    /// Text.
    Text,
    /// This whole number.
    Exactly(i64),
    /// A whole number from here on.
    Whole(i64),
    /// `true` or `false`.
    Flag,
    /// A length of time.
    Time,
    /// A number of bytes.
    Size,
    /// How many times as much: `x2`.
    Factor,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The full id of a commit.
    Commit,
    /// A reference to a value that is elsewhere, `${params.x}`.
    Reference,
    /// `stage.port`, or `stage`.
    Output,
    /// `stage.metric`.
    Metric,
    /// A list with at least so many items.
    List(&'static Shape, usize),
    /// One, or a list.
    OneOrMore(&'static Shape),
    /// Two numbers, the lower one first.
    Bounds,
    /// A mapping with known keys; the text says what it is.
    Record(&'static str, &'static [Key]),
    /// A mapping from names.
    Named(&'static Shape),
    /// A mapping from paths of values, `stage.param`.
    Paths(&'static Shape),
    /// A mapping from any text.
    Titled(&'static Shape),
    /// One of these; the text says what is expected.
    Either(&'static str, &'static [Shape]),
}

impl Shape {
    /// A key of a mapping with known keys.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        match self {
            Record(_, keys) => keys.iter().find(|key| key.name == name),
            _ => None,
        }
    }
}

use Shape::*;

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: false, shape, doc }
}

const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: true, shape, doc }
}

pub(super) const WORKFLOW: Shape = Record(
    "a workflow",
    &[
        required("restage", Exactly(1), "Version of the workflow language."),
        key("name", Text, "The workflow's name; by default the file's."),
        key("plugins", List(&PLUGIN, 0), "Where the stage types come from."),
        key("import", Named(&IMPORT), "Stages of other files, under a prefix: `prep` brings `prep.counts`."),
        key(
            "env",
            Either("a list of names, or names with defaults", &[List(&Text, 0), Named(&Any)]),
            "Environment variables that values may refer to as `${env.NAME}`; with a default, or they must be set.",
        ),
        key("params", Named(&Any), "Values that others refer to as `${params.NAME}`."),
        key("stages", Named(&STAGE), "The steps, by name."),
        key("sweep", SWEEP, "What is varied and compared."),
    ],
);

const PLUGIN: Shape = Record(
    "a plugin",
    &[required(
        "path",
        Text,
        "The folder of its sources, built when they change, or its library; relative to this file.",
    )],
);

const IMPORT: Shape = Record(
    "an import",
    &[
        required(
            "path",
            Text,
            "A workflow file, relative to this one; with `git`, to the root of the repository.",
        ),
        key("params", Named(&Any), "Values for its params."),
        key("git", Text, "The URL of a git repository that has it: `https://…`, `ssh://…`, `file:///…`."),
        key("commit", Commit, "The commit of the repository, by its full id."),
        key(
            "ref",
            Text,
            "A branch or a tag instead: `restage lock` looks up its commit and writes it into `restage.lock`.",
        ),
        key(
            "plugins",
            Word(&["allow"]),
            "With `allow`, plugins that the repository's files name are built and loaded: the code of whoever wrote it. Else they \
             are left out, and the stage types must be those of plugins here.",
        ),
    ],
);

pub(super) const STAGE: Shape = Record(
    "a stage",
    &[
        required("uses", Text, "The stage type, `plugin/name`."),
        key(
            "in",
            Named(&OneOrMore(&Output)),
            "Per input port the output that it reads: `stage.port`, or a list.",
        ),
        key("with", Named(&Any), "The params of the stage type."),
        key("foreach", Named(&VALUES), "Maps the stage over values; they are `${foreach.NAME}` in `with`."),
        key("gather", OneOrMore(&Text), "Dimensions of mapped inputs that it collects into lists."),
        key(
            "resources",
            RESOURCES,
            "What it needs of the machine. Changes no result, so nothing runs again for it.",
        ),
        key(
            "retries",
            Either("a whole number from 0, or `{ count, memory }`", &[Whole(0), RETRIES]),
            "How often it is tried again when it fails. Default 0.",
        ),
        key("timeout", Time, "How long one try may take, e.g. `30m`. Default: as long as it likes."),
    ],
);

const VALUES: Shape = Either("a list, or a reference to one", &[List(&Any, 1), Reference]);

const RESOURCES: Shape = Record(
    "`resources`",
    &[
        key(
            "cpus",
            Whole(1),
            "Threads: it waits until so many are free. Not said: one, and those that nobody holds when it begins.",
        ),
        key(
            "memory",
            Size,
            "Main memory, e.g. `4GiB`: it waits until that much is free of others' claims, and is stopped if it takes more.",
        ),
        key(
            "gpus",
            Either(
                "a whole number from 0, `required`, `as available`, or `{ count, memory, required }`",
                &[Whole(0), Word(&["required", "as available"]), GPUS],
            ),
            "GPUs, taken as available: with none it runs on the CPU. With `required` it cannot do without.",
        ),
    ],
);

const GPUS: Shape = Record(
    "`gpus`",
    &[
        key("count", Whole(0), "How many. Default 1."),
        key("memory", Size, "Memory of each, e.g. `8GiB`: others may have the rest. Default all of it."),
        key("required", Flag, "Whether it cannot do without. Default false."),
    ],
);

const RETRIES: Shape = Record(
    "`retries`",
    &[
        key("count", Whole(0), "How often it is tried again when it fails. Default 0."),
        key(
            "memory",
            Factor,
            "When it took more memory than it may, it is tried again with so much more, up to what this run may use.",
        ),
    ],
);

const SWEEP: Shape = Record(
    "`sweep`",
    &[
        key("metric", OneOrMore(&Metric), "What the table compares, `stage.metric`; the first one decides."),
        key("seeds", List(&Whole(0), 1), "Seeds; only stages that take one fork. Default `[0]`."),
        key(
            "baseline",
            Text,
            "The variant that others are compared with; by default the workflow as written.",
        ),
        key(
            "streams",
            OneOrMore(&Text),
            "Streams of random numbers that are varied alone, for the baseline: says how much of the spread over seeds each brings \
             in. Of the stages here, e.g. `[init, batches, labels]`.",
        ),
        key(
            "test",
            Word(&super::sweep::Test::NAMES),
            "How variants are tested against the baseline, by patient or section: `sign_flip` (exact; default), `wilcoxon`, or \
             `nadeau_bengio` for folds of a cross-validation.",
        ),
        key(
            "family",
            OneOrMore(&Text),
            "Variants or ablations whose tests are corrected together, by Holm; others are shown without p. Default all.",
        ),
        key("ablate", Titled(&ABLATION), "Changes against the workflow as written, by name: a variant each."),
        key("grid", Paths(&List(&Any, 1)), "A variant for each combination of values."),
        key(
            "zip",
            Paths(&List(&Any, 1)),
            "A variant for the first values, one for the second ones, and so on.",
        ),
        key("random", RANDOM, "Variants with values drawn at random."),
        key("only", OneOrMore(&Text), "Variants to take, of all of these; `--only` takes others instead."),
        key(
            "exclude",
            List(&Paths(&Any), 1),
            "Variants of `grid`, `zip` and `random` to leave out, by values.",
        ),
    ],
);

const ABLATION: Shape = Record(
    "an ablation",
    &[
        key("set", Paths(&Any), "Values to set, all together."),
        key("vary", Paths(&List(&Any, 1)), "One path with the values that it takes: a variant each."),
        key("drop", OneOrMore(&Text), "Stages to leave out; who reads them gets their input instead."),
    ],
);

const RANDOM: Shape = Record(
    "`random`",
    &[
        required("samples", Whole(1), "How many variants. More of them later keep the ones drawn before."),
        key("seed", Whole(0), "Where the numbers come from. Default 0."),
        required("over", Paths(&RANGE), "Per path a list to choose from, or a range."),
    ],
);

const RANGE: Shape = Either(
    "a list, or one of `{ uniform }`, `{ log_uniform }`, `{ whole }` with `[low, high]`",
    &[
        List(&Any, 1),
        Record("a range", &[required("uniform", Bounds, "Evenly between two numbers.")]),
        Record(
            "a range",
            &[required("log_uniform", Bounds, "Evenly in the logarithm: learning rates and the like.")],
        ),
        Record("a range", &[required("whole", Bounds, "A whole number, both ends included.")]),
    ],
);
