"""Train a plug against a frozen GGUF. One readable file; settings are the flags below.

    python -m export.train --data DATA --gguf MODEL.gguf --out runs/a --steps 1500
    python -m export.train --data DATA --gguf MODEL.gguf --out runs/a --steps 1500   # resumes
    python -m export.onnx runs/a/plug.pt PLUG_DIR --gguf MODEL.gguf --name NAME      # then export

DATA holds LaMP_N_style folders. Every ``--eval-every`` steps the loss on *dev users*, who are
never trained on, is printed with their own history, with another user's, with no notes (the null
note alone) and with no soft tokens at all. The run is checkpointed there and resumes from there.

Steps are reproducible: the batch of step s depends on the seed and on s alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.data import Question, read_questions, swap_histories
from export.examples import leave_one_out
from export.features import Features, byte_rows
from export.frozen import FrozenLLM
from export.minilm import find_minilm
from export.model import PersonaPlug, PlugConfig
from ppedge.history import Note
from ppedge.prompt import Part, note_text

# SmolLM2's chat format; its default system message made no task easier, so it is left out.
TEMPLATE = (
    Part("<|im_start|>user\n"),
    Part(slot="prompt"),
    Part("<|im_end|>\n<|im_start|>assistant\n"),
    Part(slot="soft"),
)
KEY_FIELDS = ("input", "output")
VALUE_FIELDS = ("output",)
SHARES = {6: 0.4, 5: 0.15, 4: 0.15, 7: 0.3}  # of the training examples, by task
# Of these, the share that a general writing prompt asks for; headlines' articles are not theirs.
GENERAL = {6: 0.25, 5: 0.2, 4: 0.0, 7: 0.5}
MAX_PROMPT = 192  # LLM tokens of a training prompt; dev prompts are never cut
MAX_ANSWER = 64
MAX_NOTES = 48  # notes of one training example; dev users keep all of theirs
# own history, another user's, the null note alone, no soft tokens at all
VARIANTS = ("own", "swapped", "cold", "none")
BUCKET = 8  # batches that are drawn together and sorted by length


@dataclass
class Batch:
    """B examples ready for the model; see ``collate`` for the shapes."""

    questions: list[Question]
    histories: list[Sequence[Note]]


def keep_some(notes: Sequence[Note], rng: np.random.Generator) -> list[Note]:
    """History dropout: now and then 0 to 2 notes, else half to all, at most ``MAX_NOTES``."""
    few = rng.random() < 0.15
    count = int(rng.integers(0, 3)) if few else int(rng.integers(len(notes) // 2, len(notes) + 1))
    count = min(count, len(notes), MAX_NOTES)
    return [notes[i] for i in rng.permutation(len(notes))[:count]]


class Sampler:
    """Draws training examples: a task, then a user, then a question or a note left out."""

    def __init__(self, questions: Sequence[Question], batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.users: dict[int, list[list[Question]]] = {}
        for task in sorted({q.task for q in questions}):
            users: dict[str, list[Question]] = {}
            for question in questions:
                if question.task == task:
                    users.setdefault(question.user, []).append(question)
            self.users[task] = list(users.values())

    def draw(self, rng: np.random.Generator) -> Question:
        """One example."""
        tasks = list(self.users)
        shares = np.array([SHARES[task] for task in tasks])
        task = tasks[int(rng.choice(len(tasks), p=shares / shares.sum()))]
        user = self.users[task][int(rng.integers(len(self.users[task])))]
        question = user[int(rng.integers(len(user)))]
        if rng.random() < 0.25 or not question.history:
            return question
        left_out = leave_one_out(
            question,
            int(rng.integers(len(question.history))),
            general=rng.random() < GENERAL[task],
            rng=rng,
        )
        return left_out or question

    def step(self, step: int) -> Batch:
        """The batch of one step: one of ``BUCKET`` batches drawn together, sorted by length."""
        rng = np.random.default_rng([self.seed, step // BUCKET])
        drawn = [self.draw(rng) for _ in range(BUCKET * self.batch)]
        drawn.sort(key=lambda q: len(q.input))
        place = int(rng.permutation(BUCKET)[step % BUCKET])
        questions = drawn[place * self.batch : (place + 1) * self.batch]
        rng = np.random.default_rng([self.seed, step, 1])
        return Batch(questions, [keep_some(q.history, rng) for q in questions])


class Trainer:
    """The plug, the frozen LLM and the frozen encoder, and what passes between them."""

    def __init__(self, plug: PersonaPlug, llm: FrozenLLM, features: Features) -> None:
        self.plug, self.llm, self.features = plug, llm, features

    def soft_tokens(self, prompts: Sequence[str], histories: Sequence[Sequence[Note]]) -> Tensor:
        """Soft tokens [B, n_soft, E] of each prompt over its own history."""
        # Each distinct note is encoded once, then spread to the examples that hold it.
        notes = list(dict.fromkeys(note for history in histories for note in history))
        row = {note: i for i, note in enumerate(notes)}
        query = self.plug.query(self.features.vectors_of(prompts))
        width = max(1, *map(len, histories))
        index = torch.zeros(len(histories), width, dtype=torch.long)
        mask = torch.zeros(len(histories), width, dtype=torch.bool)
        for i, history in enumerate(histories):
            index[i, : len(history)] = torch.tensor([row[n] for n in history], dtype=torch.long)
            mask[i, : len(history)] = True
        config = self.plug.config
        keys, values = torch.zeros(1, config.d_key), torch.zeros(1, config.d_value)
        if notes:
            texts = [note_text(note, VALUE_FIELDS) for note in notes]
            asked = [note_text(note, KEY_FIELDS) for note in notes]
            keys = self.plug.key(self.features.vectors_of(asked))
            values = self.plug.value(self.features.vectors_of(texts), *byte_rows(texts))
        return self.plug.soft_tokens(self.plug.pool(query, keys[index], values[index], mask))

    def nll(
        self,
        questions: Sequence[Question],
        variants: Sequence[Tensor | None],
        max_prompt: int | None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Nats and token counts [B] of the answers, for each variant of the soft tokens."""
        sides = [self.llm.around_soft(q.input, max_prompt) for q in questions]
        answers = [self.llm.tokens(q.output, special=False)[:MAX_ANSWER] for q in questions]
        answers = [[*ids, self.llm.end] for ids in answers]
        head = self.llm.run_heads([before for before, _ in sides])
        tails = [after for _, after in sides]
        return [self.llm.nll(head, soft, tails, answers) for soft in variants]

    def loss(self, batch: Batch) -> Tensor:
        """Mean nats per target token of a training batch."""
        soft = self.soft_tokens([q.input for q in batch.questions], batch.histories)
        [(nats, count)] = self.nll(batch.questions, [soft], MAX_PROMPT)
        return nats.sum() / count.sum()

    @torch.no_grad()
    def score(self, questions: Sequence[Question], seed: int) -> np.ndarray:
        """Nats of every question's answer for each of ``VARIANTS``, and its token count.

        Returns:
            float64 [len(questions), len(VARIANTS) + 1], in the order of ``questions``.
        """
        swapped = swap_histories(questions, seed)
        table = np.zeros((len(questions), len(VARIANTS) + 1))
        order = sorted(range(len(questions)), key=lambda i: len(questions[i].input))
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            part = [questions[i] for i in chosen]
            prompts = [q.input for q in part]
            variants = [
                self.soft_tokens(prompts, [q.history for q in part]),
                self.soft_tokens(prompts, [swapped[i] for i in chosen]),
                self.soft_tokens(prompts, [() for _ in part]),
                None,
            ]
            scored = self.nll(part, variants, None)
            columns = [nats for nats, _ in scored] + [scored[0][1]]
            table[chosen] = torch.stack(columns, 1).numpy()
        return table

    def evaluate(self, questions: Sequence[Question], seed: int) -> dict[str, dict[str, float]]:
        """Nats per target token by task and variant."""
        table = self.score(questions, seed)
        tasks = np.array([q.task for q in questions])
        report = {}
        for task in sorted(set(tasks)):
            *nats, count = table[tasks == task].sum(0)
            report[f"task {task}"] = {
                name: float(total / count) for name, total in zip(VARIANTS, nats, strict=True)
            }
        return report


def parameter_groups(plug: PersonaPlug, lr: float, style_lr: float) -> list[dict[str, object]]:
    """The style channel learns at its own rate; nothing else differs."""
    style = [p for name, p in plug.named_parameters() if name.startswith("style")]
    rest = [p for name, p in plug.named_parameters() if not name.startswith("style")]
    groups: list[dict[str, object]] = [{"params": rest, "lr": lr}]
    return groups + ([{"params": style, "lr": style_lr}] if style else [])


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: linear warm-up, then a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.55 + 0.45 * float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup)))


def dev_questions(data: Path, tasks: Sequence[int], limit: int, seed: int) -> list[Question]:
    """Up to ``limit`` dev questions a task, spread over users by a seeded shuffle."""
    chosen: list[Question] = []
    for task in tasks:
        found = list(read_questions(data / f"LaMP_{task}_style", "dev"))
        order = np.random.default_rng([seed, task]).permutation(len(found))[:limit]
        chosen += [found[i] for i in order]
    return chosen


def train(args: argparse.Namespace) -> None:
    """Train, evaluate, checkpoint; resume where ``--out`` holds a checkpoint."""
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "plug.pt"
    llm = FrozenLLM(args.gguf, TEMPLATE, torch.bfloat16)
    features = Features(args.encoder, args.features)
    config = PlugConfig(
        n_embd=llm.table.shape[1], n_persona=args.persona_tokens, d_style=args.style
    )
    plug = PersonaPlug(config, llm.table.float())
    optimizer = torch.optim.AdamW(parameter_groups(plug, args.lr, args.style_lr), weight_decay=0.01)
    peaks = [group["lr"] for group in optimizer.param_groups]
    trainer = Trainer(plug, llm, features)
    questions = [
        q for task in args.tasks for q in read_questions(args.data / f"LaMP_{task}_style", "train")
    ]
    dev = dev_questions(args.data, args.tasks, args.eval_limit, args.seed)
    start, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["config"] != asdict(config):
            raise SystemExit(f"{checkpoint} was trained with other settings: {state['config']}")
        plug.load_state_dict(state["plug"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
        print(f"resumed at step {start}", flush=True)

    def save(step: int) -> None:
        state = {
            "config": asdict(config),
            "plug": plug.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds + time.time() - begun,
            "settings": {name: str(value) for name, value in vars(args).items()},
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        # A text encoded anew beside others may differ in its last bits; kept, it does not.
        features.save()

    begun, running = time.time(), []
    sampler = Sampler(questions, args.batch, args.seed)
    last = min(args.steps, args.stop_at or args.steps)
    for step in range(start, last):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate(step, args.steps, args.warmup)
        loss = trainer.loss(sampler.step(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plug.parameters(), 1.0)
        optimizer.step()
        running.append(float(loss.detach()))
        done = step + 1
        if done % 10 == 0:
            per_step = (time.time() - begun) / (done - start)
            print(
                f"step {done} loss {np.mean(running[-50:]):.4f} {per_step:.2f} s/step", flush=True
            )
        if done % args.eval_every == 0 or done == last:
            save(done)
            scores = trainer.evaluate(dev, args.seed)
            line = {"step": done, "scale": round(float(plug.scale.detach()), 3), "dev": scores}
            print(json.dumps(line), flush=True)
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps({**line, "loss": float(np.mean(running[-50:]))}) + "\n")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    parser.add_argument("--gguf", type=Path, required=True, help="the LLM that the plug is for")
    parser.add_argument("--encoder", type=Path, help="MiniLM folder (default: the package's)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and log go here")
    parser.add_argument("--features", type=Path, help="file that keeps the text vectors")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 5, 6, 7])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--stop-at", type=int, help="end here; the same command goes on later")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--style-lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--persona-tokens", type=int, default=6)
    parser.add_argument("--style", type=int, default=0, help="width of the byte-level channel")
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--eval-limit", type=int, default=48, help="dev questions a task")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    args.encoder = args.encoder or find_minilm()
    return args


if __name__ == "__main__":
    train(parse())
