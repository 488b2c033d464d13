"""llama.cpp through llama-cpp-python's low-level API, as the peers use it:
loading, a context with its batch, drawing, and decoding of many sequences at
once that share what they begin with."""
import os

import llama_cpp as ll
import numpy as np

QUIET = ll.llama_log_callback(lambda *_: None)  # llama.cpp keeps a pointer
MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ of a build
# flash: 0 without flash attention, 1 with, -1 as llama.cpp thinks best.
SETTINGS = {"flash": -1, "kv": "f16", "ubatch": 512, "unified": 1, "group": 0,
            "threads": os.cpu_count()}


def load(path):
    ll.llama_log_set(QUIET, None)
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(
        path.encode(), ll.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path}: llama.cpp cannot load it")
    return model


def texts(model, ids):
    """The text of token ids, special tokens as they are written."""
    vocab = ll.llama_model_get_vocab(model)
    raw = b""
    for token in ids:
        piece = bytes(256)
        n = ll.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
        raw += piece[:n]
    return raw.decode(errors="replace")


class Context:
    """A KV store of so many cells (of each sequence, where it is not
    unified), and the batch that is next."""

    def __init__(self, model, cells, sequences, settings=None):
        s = SETTINGS | (settings or {})
        cells = -(-cells // 256) * 256
        wanted = ll.llama_context_default_params()
        wanted.n_ctx = cells if s["unified"] else cells * sequences
        wanted.n_batch = wanted.n_ctx
        wanted.n_ubatch = min(s["ubatch"], wanted.n_ctx)
        wanted.n_seq_max = sequences
        wanted.kv_unified = bool(s["unified"])
        wanted.n_threads = wanted.n_threads_batch = s["threads"]
        wanted.flash_attn_type = s["flash"]
        wanted.type_k = wanted.type_v = (ll.GGML_TYPE_F16 if s["kv"] == "f16"
                                         else ll.GGML_TYPE_F32)
        self.context = ll.llama_init_from_model(model, wanted)
        if not self.context:
            raise SystemExit(f"llama.cpp makes no context of {s}")
        self.memory = ll.llama_get_memory(self.context)
        self.batch = ll.llama_batch_init(wanted.n_batch, 0, sequences)
        self.vocabulary = ll.llama_vocab_n_tokens(
            ll.llama_model_get_vocab(model))
        self.n = self.wanted = self.computed = 0

    def add(self, token, place, sequences, wanted=False):
        """One token of some sequences; wanted: its logits."""
        batch, i = self.batch, self.n
        batch.token[i] = token
        batch.pos[i] = place
        batch.n_seq_id[i] = len(sequences)
        of = batch.seq_id[i]
        for at, sequence in enumerate(sequences):
            of[at] = sequence
        batch.logits[i] = wanted
        self.wanted += wanted
        self.n += 1

    def decode(self):
        """Logits [wanted, vocabulary] in the order of the tokens; valid up
        to the next call."""
        self.batch.n_tokens = self.n
        code = ll.llama_decode(self.context, self.batch)
        if code != 0:
            raise SystemExit(f"llama_decode fails with {code}")
        logits = np.ctypeslib.as_array(ll.llama_get_logits(self.context),
                                       (self.wanted * self.vocabulary,))
        self.computed += self.n
        shape = (self.wanted, self.vocabulary)
        self.n = self.wanted = 0
        return logits.reshape(shape)

    def copy(self, source, target, end=-1):
        """target holds what source has before place `end`; shares its cells
        in a unified store."""
        ll.llama_memory_seq_cp(self.memory, source, target, 0, end)

    def drop(self, sequence, begin=0):
        ll.llama_memory_seq_rm(self.memory, sequence, begin, -1)

    def clear(self):
        ll.llama_memory_clear(self.memory, False)
        self.computed = 0

    def close(self):
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.context)


class Nucleus:
    """The distribution that temperature, then top-p (no top-k) make of
    logits: the smallest set of the most probable that holds top_p. Draws by
    given uniform numbers, so that every form draws the same; along the order
    of ids, which rounding does not change. Temperature 0 is the first of the
    largest."""

    def __init__(self, logits, temperature, top_p):
        if temperature == 0:
            self.ids, self.sums = logits.argmax(keepdims=True), np.ones(1)
            return
        weights = np.exp((logits - logits.max()) / np.float32(temperature))
        total = weights.sum(dtype=np.float64)
        # What is less probable than this adds up to less than 1 - top_p.
        least = total * (1 - top_p) / len(weights)
        ids = np.flatnonzero(weights >= least)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        sums = np.cumsum(weights[ids], dtype=np.float64)
        n = min(int(np.searchsorted(sums, top_p * total)) + 1, len(ids))
        self.ids = np.sort(ids[:n])
        sums = np.cumsum(weights[self.ids], dtype=np.float64)
        self.sums = sums / sums[-1]

    def pick(self, uniform):
        at = int(np.searchsorted(self.sums, uniform, side="right"))
        return int(self.ids[min(at, len(self.ids) - 1)])


def common(a, b):
    """How many tokens two sequences begin with together."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.array(a[:n]) != np.array(b[:n]))
    return int(differ[0]) if len(differ) else n


class Sampling:
    """How to go on: k samples of each prompt, limits[i] tokens at most. The
    uniform numbers are those of (prompt, sample, token), whatever the
    order."""

    def __init__(self, prompts, limits, k=1, temperature=0.0, top_p=1.0,
                 stops=(), seed=0):
        self.prompts, self.limits, self.k = prompts, limits, k
        self.temperature, self.top_p = temperature, top_p
        self.stops = set(stops)
        numbers = np.random.Generator(np.random.Philox(seed))
        self.uniform = numbers.random((len(prompts), k, max(limits)))

    def nucleus(self, logits):
        return Nucleus(logits, self.temperature, self.top_p)

    def ended(self, prompt, ids):
        return len(ids) >= self.limits[prompt] or ids[-1] in self.stops


class Branch:
    """A sequence in the store, and the samples (prompt, number) that so far
    are it."""

    def __init__(self, sequence, place, members):
        self.sequence, self.place, self.members = sequence, place, members


class Batched:
    """Everything in one batch: what prompts have in common lies in the store
    once, as the trunk (sequence 0), and the k samples of a prompt share its
    cells. settings["group"]: prompts at a time, 0 all: fewer cells to look
    at against smaller batches. merge: samples of a prompt that have drawn
    the same tokens are one sequence until they part."""

    def __init__(self, model, sampling, settings=None, merge=False):
        self.sampling, self.merge = sampling, merge
        self.settings = SETTINGS | (settings or {})
        self.unified = self.settings["unified"]
        most = (MOST_SEQUENCES - 1) // sampling.k
        prompts = sampling.prompts
        self.group = min(self.settings["group"] or len(prompts), most,
                         len(prompts))
        self.plan()
        self.context = Context(model, self.cells(),
                               self.group * sampling.k + 1, self.settings)

    def plan(self):
        """The trunk is the prompt that shares most with all others; of each
        prompt the last token is its own, for its logits."""
        prompts = self.sampling.prompts
        if not self.unified:  # every sequence in a store of its own
            self.trunk, self.shared = [], [0] * len(prompts)
            return
        arrays = [np.array(p) for p in prompts]
        sums = [sum(common(a, b) for b in arrays) for a in arrays]
        self.trunk = prompts[int(np.argmax(sums))]
        self.shared = [min(common(self.trunk, p), len(p) - 1)
                       for p in prompts]

    def cells(self):
        prompts, limits = self.sampling.prompts, self.sampling.limits
        if not self.unified:
            return max(len(p) + m for p, m in zip(prompts, limits))
        own = [len(p) - s + self.sampling.k * m
               for p, s, m in zip(prompts, self.shared, limits)]
        return max(self.shared) + max(
            sum(own[i:i + self.group]) for i in range(0, len(own), self.group))

    def run(self):
        """The ids of all completions, [prompts][k]."""
        sampling, context = self.sampling, self.context
        context.clear()
        self.done = 0  # tokens of the trunk in the store
        self.found = [[[] for _ in range(sampling.k)]
                      for _ in sampling.prompts]
        for begin in range(0, len(sampling.prompts), self.group):
            chosen = range(begin, min(begin + self.group,
                                      len(sampling.prompts)))
            self.free = list(range(self.group * sampling.k, 0, -1))
            branches = self.start(chosen)
            logits = context.decode()
            while branches:
                branches = self.draw(branches, logits)
                if branches:
                    logits = context.decode()
        return self.found

    def start(self, chosen):
        """Adds what is new of the trunk, and of each prompt its own."""
        context, shared = self.context, self.shared
        branches = []
        for i in chosen:
            prompt = self.sampling.prompts[i]
            members = [(i, s) for s in range(self.sampling.k)]
            branches.append(Branch(self.free.pop(), len(prompt), members))
            if shared[i] and self.done:
                context.copy(0, branches[-1].sequence,
                             min(shared[i], self.done))
        need = max((shared[i] for i in chosen), default=0)
        for place in range(self.done, need):
            context.add(self.trunk[place], place, [0] + [
                b.sequence for i, b in zip(chosen, branches)
                if shared[i] > place])
        self.done = max(self.done, need)
        for i, branch in zip(chosen, branches):
            prompt = self.sampling.prompts[i]
            for place in range(shared[i], len(prompt)):
                context.add(prompt[place], place, [branch.sequence],
                            place == len(prompt) - 1)
        return branches

    def draw(self, branches, logits):
        """Draws a token for every sample, and adds it where one goes on; the
        branches whose tokens were added."""
        sampling, context = self.sampling, self.context
        following = []
        for branch, row in zip(branches, logits):
            nucleus, parted = sampling.nucleus(row), {}
            for i, s in branch.members:
                ids = self.found[i][s]
                token = nucleus.pick(sampling.uniform[i, s, len(ids)])
                ids.append(token)
                if not sampling.ended(i, ids):
                    key = token if self.merge else s
                    parted.setdefault(key, (token, []))[1].append((i, s))
            for at, (token, members) in enumerate(parted.values()):
                sequence = branch.sequence
                if at > 0:
                    sequence = self.free.pop()
                    context.copy(branch.sequence, sequence)
                following.append(Branch(sequence, branch.place + 1, members))
                context.add(token, branch.place, [sequence], True)
            if not parted:
                context.drop(branch.sequence)
                self.free.append(branch.sequence)
        return following

    def close(self):
        self.context.close()
