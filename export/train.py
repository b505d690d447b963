"""Train a plug against a frozen LLM. Settings are the flags below.

    python -m export.train --data DATA --llm MODEL.gguf --out runs/a --steps 1500
    python -m export.train --data DATA --llm MODEL.gguf --out runs/a --steps 1500   # resumes
    python -m export.onnx runs/a/plug.pt PLUG_DIR --llm MODEL.gguf --name NAME      # then export

    accelerate launch --multi_gpu --num_processes 2 -m export.train ...   # the same, on two GPUs
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 ...     # on two CPUs

DATA holds LaMP_N_style folders. Every ``--eval-every`` steps the loss on *dev users*, who are
never trained on, is printed with their own history, with another user's, with no notes (the null
note alone) and with no soft tokens at all. The run is checkpointed there and resumes from there.

Steps are reproducible: the batch of step s depends on the seed and on s alone, not on how many
processes share it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.data.authors import read_authors
from export.data.lamp import Question, read_questions, swap_histories
from export.data.template import CHATML, place_soft, read_template, soft_place
from export.models.base_llm import FrozenLLM
from export.models.features import Features
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import TextEncoder, find_minilm
from export.synthetic import dataset
from export.synthetic.corpus import read_corpus
from export.training import checkpoint
from export.training.contrast import draw_rivals
from export.training.distributed import Distributed
from export.training.options import add_plug_options, defaults, parse
from export.training.prefetch import Prefetch
from export.training.retrieval_prompts import put_notes
from export.training.sampler import SHARES, Batch, Sampler
from export.training.trainer import Contrast, Trainer
from export.training.turn_sampler import TurnedSampler, dev_people, dev_turns, dev_writers
from export.training.warm_start import read_weights
from ppedge.errors import PpedgeError
from ppedge.notes.reader import Note
from ppedge.plug.template import Part


@dataclass
class Run:
    """All that a training run works with."""

    args: argparse.Namespace
    distributed: Distributed
    trainer: Trainer
    sampler: Sampler | TurnedSampler
    batches: Prefetch
    dev: list[Question]
    turns: list[tuple[Note, ...]]  # before each of dev's questions; empty without turns
    optimizer: torch.optim.Optimizer
    inputs: dict[str, str]  # digests of model, encoder and questions
    step: int = 0
    seconds: float = 0.0  # of the sessions before this one

    @property
    def plug(self) -> PersonaPlug:
        """What is being trained."""
        return self.trainer.plug

    @property
    def checkpoint(self) -> Path:
        """The file that the run is kept in."""
        return self.args.out / "plug.pt"


def parameter_groups(
    plug: PersonaPlug, lr: float, style_lr: float, encoder_lr: float = 1e-4
) -> list[dict[str, object]]:
    """The style channel and a query encoder learn at their own rates; nothing else differs."""
    rates = {"": lr, "style": style_lr, "query_encoder": encoder_lr}
    groups: dict[str, list[torch.nn.Parameter]] = {prefix: [] for prefix in rates}
    for name, parameter in plug.named_parameters():
        prefix = next((p for p in rates if p and name.startswith(p)), "")
        groups[prefix].append(parameter)
    return [{"params": found, "lr": rates[p]} for p, found in groups.items() if found]


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


def open_template(args: argparse.Namespace) -> tuple[Part, ...]:
    """The template that the options ask for, its soft slot where they want it."""
    parts = CHATML if args.template is None else read_template(args.template)
    place = args.soft or ("before" if args.paper else None)
    if place is None and soft_place(parts) is not None:
        return parts
    return place_soft(parts, place or "after")


def plug_config(args: argparse.Namespace, llm: FrozenLLM, encoder: TextEncoder) -> PlugConfig:
    """The plug that the options ask for: the paper's form or the default one, then overrides."""
    width, n_embd = encoder.width, llm.table.shape[1]
    given = {f.name: getattr(args, f.name, None) for f in fields(PlugConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("d_control"):
        given["n_control"] = llm.n_layer - 1
    if args.paper:
        config = PlugConfig.paper(n_embd, width, **given)
    else:
        config = PlugConfig(n_embd=n_embd, d_text=width, d_key=width, **given)
    if config.query_encoder == "separate":
        config = replace(config, query_shape=encoder.shape)
    return config


def open_run(args: argparse.Namespace) -> Run:
    """Load everything, and go on from the checkpoint if there is one.

    Raises:
        ValueError: something cannot be read, or the checkpoint is of another run.
    """
    distributed = Distributed(args.device)
    if args.batch < distributed.size:
        raise ValueError(f"--batch {args.batch} cannot be shared by {distributed.size} processes")
    torch.manual_seed(args.seed)
    # The data first: what is wrong with them is then said in seconds.
    questions = [
        q for task in args.tasks for q in read_questions(args.data / f"LaMP_{task}_style", "train")
    ]
    plain = read_corpus(args.corpus) if args.corpus else []
    authors = read_authors(args.authors) if args.authors else []
    template = open_template(args)
    folder = args.encoder or find_minilm()
    dtype = getattr(torch, args.dtype)
    llm = FrozenLLM(args.llm, template, dtype, distributed.device)
    features = Features(folder, args.features, distributed.device, dtype)
    config = plug_config(args, llm, features.encoder)
    config = replace(config, soft=soft_place(template))
    if config.d_control:
        llm.ensure_steerable(config.n_control)
    own_encoder = config.query_encoder == "separate"
    plug = PersonaPlug(
        config,
        llm.table.float().cpu(),
        TextEncoder.read(folder, trainable=True) if own_encoder else None,
    ).to(distributed.device)
    groups = parameter_groups(plug, args.lr, args.style_lr, args.encoder_lr)
    shares = {**SHARES, **(args.shares or {})}
    sampler: Sampler | TurnedSampler = Sampler(
        questions,
        args.batch,
        args.seed,
        shares=shares,
        in_order=config.recency,
        synthetic=dataset.SyntheticPersonas(plain) if plain else None,
        leave_one_out=args.leave_one_out,
        dropout=args.dropout,
        style_transfer=args.style_transfer,
        choices=args.choices,
    )
    dev = [
        *dev_questions(args.data, args.tasks, args.eval_limit, args.seed),
        *(dataset.dev_questions(plain, args.eval_limit, args.seed) if plain else ()),
        *dev_writers(authors, args.eval_limit, args.seed),
    ]
    if args.turns and isinstance(sampler, Sampler):
        dev = dev_people(dev, args.seed)
        sampler = TurnedSampler(sampler, authors, shares=shares, turns=args.turns)
    run = Run(
        args=args,
        distributed=distributed,
        trainer=Trainer(plug, llm, features),
        sampler=sampler,
        batches=Prefetch(sampler.step, workers=args.workers),
        dev=dev,
        turns=dev_turns(dev, args.turns, args.seed) if args.turns else [],
        optimizer=torch.optim.AdamW(groups, weight_decay=0.01),
        inputs={
            "model": llm.digest(),
            "encoder": features.digest,
            "training questions": checkpoint.digest_questions(questions),
            "plain texts": checkpoint.digest_texts(text.text for text in plain),
            "authors": checkpoint.digest_texts(text for each in authors for text in each.notes),
        },
    )
    if isinstance(sampler, TurnedSampler):  # Dev's prefixes stay, and all who sit have room.
        run.trainer.prefixes.keep = sampler.seats + len(dev)
    swap_histories(run.dev, args.seed)  # refuses now what evaluation could not do later
    if distributed.note:
        tell(run, distributed.note)
    if run.checkpoint.exists():
        resume(run)
        return run
    if args.start:
        plug.load_state_dict(read_weights(args.start, plug))
    if args.template is None and len(llm.tokens("<|im_start|>", special=True)) != 1:
        tell(run, "note: this model's tokenizer has no <|im_start|>; --template gives it its own")
    return run


def resume(run: Run) -> None:
    """Go on from the run's checkpoint.

    Raises:
        ValueError: it was trained with other settings.
    """
    path, args = run.checkpoint, run.args
    state = checkpoint.load(path)
    differs = checkpoint.difference(
        state,
        run.plug.config,
        run.trainer.llm.template,
        checkpoint.settings_of(vars(args)),
        checkpoint.settings_of(defaults()),
        run.inputs,
        add_plug_options(argparse.ArgumentParser()),
    )
    if differs:
        raise ValueError(
            f"{path} was trained with other settings: {differs}. "
            "Give the same, or another --out for a new run"
        )
    run.plug.load_state_dict(state["plug"])
    rates = [group["lr"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    run.step, run.seconds = state["step"], state["seconds"]
    tell(run, f"resumed at step {run.step}")


def tell(run: Run, line: str) -> None:
    """Print a line, once for all processes."""
    if run.distributed.main:
        print(line, flush=True)


def batch_of(run: Run, step: int) -> tuple[Batch, Contrast | None]:
    """This process's examples of a step, and the contrastive term if the step has it."""
    args = run.args
    term = Contrast(args.contrast, args.contrast_from, args.contrast_margin)
    batch = run.batches(step)
    if args.notes_in_prompt:
        batch.prompts = put_notes(
            batch,
            args.notes_in_prompt,
            count=lambda text: len(run.trainer.llm.tokens(text, special=False)),
            seed=args.seed,
            step=step,
        )
    if term.at(step):
        batch.negatives = draw_rivals(batch.questions, batch.histories, args.seed, step)
    return batch.part(run.distributed.index, run.distributed.size), term if term.at(step) else None


def rate(run: Run, step: int, elapsed: float) -> float:
    """Share of the peak rate at a step, ``elapsed`` seconds into the run."""
    args = run.args
    if args.minutes is None or step < args.warmup:
        return learning_rate(step, args.steps, args.warmup)
    # Time takes the place of steps.
    return learning_rate(min(round(1000 * elapsed / (60 * args.minutes)), 1000), 1000, 0)


def take_step(run: Run, step: int, peaks: Sequence[float], elapsed: float = 0.0) -> float:
    """One optimiser step; returns the loss of the whole batch, the same on every process."""
    share = rate(run, step, elapsed)
    for group, peak in zip(run.optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * share
    batch, term = batch_of(run, step)
    loss = run.trainer.loss(batch, run.distributed, term)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    run.distributed.sum_gradients(run.plug.parameters())
    torch.nn.utils.clip_grad_norm_(run.plug.parameters(), 1.0)
    run.optimizer.step()
    return float(run.distributed.sum(loss.detach()))


def save(run: Run, step: int, begun: float) -> None:
    """Write the checkpoint and the text vectors."""
    checkpoint.save(
        run.checkpoint,
        run.plug,
        run.optimizer,
        run.trainer.llm.template,
        step=step,
        seconds=run.seconds + time.time() - begun,
        settings=checkpoint.settings_of(vars(run.args)),
        inputs=run.inputs,
    )
    # A text encoded anew beside others may differ in its last bits; kept, it does not.
    run.trainer.features.save()


def evaluate(run: Run, step: int, loss: float) -> None:
    """Print and log the loss on dev users, of whom every process takes its share."""
    line: dict[str, Any] = {"step": step, "scale": round(float(run.plug.scale.detach()), 3)}
    if run.plug.config.recency:
        line["recency"] = round(float(run.plug.recency.detach()), 4)
    line["dev"] = run.trainer.evaluate(run.dev, run.args.seed, run.turns, run.distributed)
    if not run.distributed.main:
        return
    print(json.dumps(line), flush=True)
    with (run.args.out / "log.jsonl").open("a") as log:
        log.write(json.dumps({**line, "loss": loss}) + "\n")


def train(args: argparse.Namespace) -> None:
    """Train, evaluate, checkpoint; resume where ``--out`` holds a checkpoint."""
    try:
        run = open_run(args)
    except (ValueError, FileNotFoundError, PpedgeError) as error:
        raise SystemExit(f"export.train: {error}") from error
    args.out.mkdir(parents=True, exist_ok=True)
    peaks = [group["lr"] for group in run.optimizer.param_groups]
    begun, running = time.time(), list[float]()
    last = min(args.steps, args.stop_at or args.steps)
    for step in range(run.step, last):
        # Every process goes by the main one's clock: all end at the same step.
        elapsed = run.distributed.of_main(run.seconds + time.time() - begun)
        running.append(take_step(run, step, peaks, elapsed))
        done = step + 1
        if args.minutes is not None and elapsed >= 60 * args.minutes:
            last = done
        recent = float(np.mean(running[-50:]))
        if done % 10 == 0:
            per_step = (time.time() - begun) / (done - run.step)
            tell(run, f"step {done} loss {recent:.4f} {per_step:.2f} s/step")
        if run.distributed.main and args.save_every and done % args.save_every == 0:
            save(run, done, begun)
        if done % args.eval_every == 0 or done == last:
            if run.distributed.main:
                save(run, done, begun)
            evaluate(run, done, recent)
            run.distributed.wait()
        if done == last:
            break
    if run.distributed.main:
        checkpoint.write_instruction(run.checkpoint, run.plug)
    run.batches.close()
    run.distributed.close()


if __name__ == "__main__":
    train(parse(sys.argv[1:]))
