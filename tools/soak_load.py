"""What clients do to the cluster of tools/soak: requests short and long, of several classes, that are waited for,
detached or left, and what must come of each. A class for tools/soak to derive from, which has violation()."""
import json
import random
import threading

from soak_cluster import process

REQUEST_S = 60  # router.request_timeout_s of soak_cluster
CLASSES = ("interactive", "standard", "batch")
STARTS = ("It is a truth universally acknowledged, that", "\"My dear Mr. Bennet,\" said", "Anne",
          "The ball at Netherfield had been talked of by everybody for a fortnight, and Elizabeth, who")


def prompts(count):
    """Jobs short and long, greedy and sampled, each with tokens of its own."""
    jobs = []
    for i in range(count):
        text = STARTS[i % len(STARTS)]
        if i % 5 == 4:  # many KV blocks before it decodes at all
            text += "".join(" " + STARTS[n % len(STARTS)] for n in range(12))
        tokens = (16, 60, 200, 600)[i // 2 % 4]
        jobs.append({"prompt": text, "max_tokens": tokens, "ignore_eos": i % 3 != 0, "temperature": 0.8 if i % 2 else 0.0,
                     "top_p": 0.95, "seed": i + 1})
    return jobs


class load:
    """Clients, and the account of their requests."""

    def __init__(self, seed, mode, cluster):
        self.seed = seed
        self.mode = mode
        self.cluster = cluster
        self.lock = threading.Condition()  # guards what clients tell
        self.ended = 0
        self.outcomes = {}
        self.cancelled = set()  # (head's generation, id)
        self.stopping = threading.Event()
        self.clients = []
        self.pool = prompts(40)
        self.reference = []

    def run_undisturbed(self):
        """What every job's tokens are; says how many."""
        lines = "".join(json.dumps(j) + "\n" for j in self.pool)
        _, out, err = self.cluster.run(["submit", "-", "-o", "json", "--concurrency", "4"], lines, REQUEST_S, code=0)
        self.reference = sorted(map(json.loads, out.splitlines()), key=lambda r: int(r["id"][1:]))
        if len(self.reference) != len(self.pool) or any(r["outcome"] != "finished" for r in self.reference):
            raise RuntimeError(f"the undisturbed run fails: {err}")
        return f"undisturbed: {len(self.pool)} jobs, {sum(len(r['token_ids']) for r in self.reference)} tokens"

    def check_record(self, generation, line, job):
        """One record of `submit -o json` against the undisturbed run."""
        with self.lock:
            self.ended += 1
            outcome = line["outcome"]
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            hit = (generation, line["id"]) in self.cancelled
            self.lock.notify_all()
        expected = self.reference[job]
        tokens = line.get("token_ids", [])
        if outcome == "finished":
            if tokens != expected["token_ids"] or line["text"] != expected["text"]:
                at = next((n for n, (x, y) in enumerate(zip(tokens, expected["token_ids"])) if x != y), len(tokens))
                self.violation(f"{line['id']} (job {job}): other tokens than undisturbed from {at} of {len(tokens)} on: "
                               f"{line['retries']} retries, {line['migrations']} migrations, {line['cached_prompt_tokens']} cached, "
                               f"{line['prefill_instance']} -> {line['decode_instance']}")
        elif outcome != "cancelled" or not hit:
            self.violation(f"{line['id']} (job {job}) {outcome}: {line['reason']}")
        elif tokens != expected["token_ids"][:len(tokens)]:
            self.violation(f"{line['id']} (job {job}), cancelled: its tokens are not a beginning of the undisturbed ones")
        if (line.get("e2e_ms") or 0) > REQUEST_S * 1000 + 5000:
            self.violation(f"{line['id']} ended after its deadline: {line['e2e_ms']:.0f} ms")

    def submit(self, draw, count):
        """A client that waits for all of its jobs."""
        # One job after the other in the file and in the ids: the n-th id is the n-th line's.
        chosen = [draw.randrange(len(self.pool)) for _ in range(count)]
        lines = "".join(json.dumps({**self.pool[j], "slo": draw.choice(CLASSES)}) + "\n" for j in chosen)
        generation = self.cluster.generation
        code, out, err = self.cluster.run(["submit", "-", "-o", "json", "--for-s", str(REQUEST_S)], lines, REQUEST_S + 20)
        if not self.cluster.same_head(generation):
            return  # what the head had accepted is lost with it, and the client said so
        records = [json.loads(line) for line in out.splitlines()]
        ids = [r["id"] for r in records]
        if len(records) != count or len(set(ids)) != count or None in ids:
            self.violation(f"{count} jobs submitted, {len(records)} outcomes ({code}): {err.strip()[:300]} {ids}")
            return
        for job, record in zip(chosen, sorted(records, key=lambda r: int(r["id"][1:]))):
            self.check_record(generation, record, job)

    def leave(self, draw):
        """A client that is killed while its tokens come."""
        words = [self.cluster.hflex, "submit", "-p", draw.choice(STARTS), "--max-tokens", "900", "--ignore-eos"]
        client = process("client", words, self.cluster.environment, self.cluster.folder / "clients.log")
        client.wait_more(draw.randrange(4), 10)
        client.kill()

    def detach(self, draw):
        """A job whose client goes, and that goes on."""
        generation = self.cluster.generation
        job = draw.randrange(len(self.pool))
        code, out, err = self.cluster.run(["submit", "-", "--detach", "-o", "json"], json.dumps(self.pool[job]) + "\n")
        if code == 0:
            name = json.loads(out)["id"]
            code, out, err = self.cluster.run(["wait", name, "-o", "json", "--for-s", str(REQUEST_S + 30)], longest=REQUEST_S + 60)
            code, out, err = self.cluster.run(["jobs", name, "-o", "json"]) if code in (0, 1) else (code, out, err)
        if not self.cluster.same_head(generation):
            return
        if code != 0 or not out.strip():
            self.violation(f"detached job: {code} {err.strip()[:300]}")
        else:
            self.check_record(generation, json.loads(out), job)

    def client(self, number):
        draw = random.Random(f"{self.seed} {self.mode} client {number}")
        while not self.stopping.is_set():
            kind = draw.random()
            if self.cluster.down.is_set():
                self.stopping.wait(0.1)
            elif kind < 0.75:
                self.submit(draw, draw.choice((1, 4, 12, 30)))
            elif kind < 0.9:
                self.leave(draw)
            else:
                self.detach(draw)

    def client_or_violation(self, number):
        try:
            self.client(number)
        except Exception as fault:  # what a thread throws nobody hears
            self.violation(f"client {number} stops: {fault!r}")

    def begin_load(self, clients=4):
        self.stopping.clear()
        self.clients = [threading.Thread(target=self.client_or_violation, args=(n,)) for n in range(clients)]
        for c in self.clients:
            c.start()

    def end_load(self):
        self.stopping.set()
        for c in self.clients:
            c.join(REQUEST_S + 120)
            if c.is_alive():
                self.violation("a client does not end")

    def progress(self, count, longest):
        """Waits until so many more requests have ended; false when they do not."""
        with self.lock:
            goal = self.ended + count
            return self.lock.wait_for(lambda: self.ended >= goal, longest)
