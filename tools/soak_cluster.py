"""Real hflex processes on loopback for tools/soak: a head, its agents, commands, and what /proc says of them.

Observes as a user would: by commands, their output and their exit codes. Decides nothing of what is done to the
cluster. Every wait is for an event and has an end; one that ends in vain is a violation, never an exception that hides it.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import uuid

PATIENCE_S = 60  # longest wait for what must happen; generous, as other work may share the machine


class process:
    """One child whose standard output is read line by line; standard error goes to a file."""

    def __init__(self, name, words, environment, errors, standard_input=subprocess.DEVNULL):
        self.name = name
        self.words = words
        self.expected_end = False  # True once something was done that ends it
        self.lines = []
        self.heard = threading.Condition()
        self.closed = False
        self.errors = errors
        with open(errors, "ab") as sink:
            self.child = subprocess.Popen(words, stdin=standard_input, stdout=subprocess.PIPE, stderr=sink, env=environment,
                                          start_new_session=True)
        self.pid = self.child.pid
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.child.stdout:
            with self.heard:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self.heard.notify_all()
        with self.heard:
            self.closed = True
            self.heard.notify_all()

    def wait_line(self, text, longest=PATIENCE_S):
        """The first line with this text; None when it does not come."""
        found = []

        def there():
            found[:] = [line for line in self.lines if text in line]
            return found or self.closed
        with self.heard:
            self.heard.wait_for(there, longest)
        return found[0] if found else None

    def wait_more(self, count, longest):
        """Waits until there are more than `count` lines."""
        with self.heard:
            self.heard.wait_for(lambda: len(self.lines) > count or self.closed, longest)

    def wait_exit(self, longest=PATIENCE_S):
        """The exit code, or minus the signal that ended it; None when it goes on."""
        try:
            return self.child.wait(longest)
        except subprocess.TimeoutExpired:
            return None

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        if self.alive():
            self.child.send_signal(number)

    def kill(self):
        self.expected_end = True
        self.signal(signal.SIGKILL)
        self.child.wait()


def vitals(pid):
    """Resident memory in KiB, threads and open descriptors of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    number = {key: int(value) for key, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.M)}
    return {"rss_kib": number["VmRSS"], "threads": number["Threads"], "fds": len(os.listdir(f"/proc/{pid}/fd"))}


def listening_ports(pid):
    sockets = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            sockets.update(re.findall(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{entry}")))
        except OSError:
            pass  # closed meanwhile
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted({int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and r[9] in sockets})


class cluster:
    """A head and its agents. `violation(text)` is told of all that should not be."""

    def __init__(self, hflex, model, mode, least, most, agents, folder, violation):
        self.hflex = str(hflex)
        self.mode = mode
        self.least, self.most = least, most
        self.folder = folder
        self.violation = violation
        self.mark = f"HFLEX-SOAK-{uuid.uuid4().hex}"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("HFLEX_")}
        self.environment["SOAK_MARK"] = self.mark
        self.shm_before = set(os.listdir("/dev/shm"))
        fleet = "[{role: mixed, count: 2}]" if mode == "collocated" else "[{role: prefill, count: 1}, {role: decode, count: 1}]"
        self.config = folder / "soak.yaml"
        # Attempts without end: with kills at this rate a request may lose more instances than a real one ever does.
        self.config.write_text(f"""\
model: {model}
mode: {mode}
fleet: {fleet}
scheduler: {{policy: hyperflexis}}
scaling: {{policy: hyperflexis, min_instances: {least}, max_instances: {most}, lead_time_s: 0.5, hand_hold_s: 2}}
router: {{max_attempts: 100, request_timeout_s: 60, stage_timeout_s: 20, max_history: 256}}
instance: {{kv_memory_mib: 12, max_sequences: 16, max_waiting: 32}}
membership: {{expect_nodes: 2, drain_deadline_s: 10, start_deadline_s: 30}}
""")
        self.agent_words = {name: words for name, words in agents}
        self.agents = {}
        self.head = None
        self.watch = None
        self.address = "127.0.0.1:0"
        self.down = threading.Event()  # set while the head is
        self.generation = 0  # of the head's connections: counts what breaks them all

    # ---- processes ----

    def start_head(self):
        port = self.address.rsplit(":", 1)[1]
        self.head = process("head", [self.hflex, "head", "-C", str(self.config), "--port", port], self.environment,
                            self.folder / "head.log")
        line = self.head.wait_line("head listens on ")
        if line is None:
            raise RuntimeError(f"the head does not start; see {self.folder}/head.log")
        self.address = line.rsplit(" ", 1)[1]
        self.environment["HFLEX_HEAD"] = self.address
        self.generation += 1
        self.down.clear()
        self.watch = process("watch", [self.hflex, "topology", "--watch", "-o", "json"], self.environment,
                             self.folder / "watch.log")
        self.watch.expected_end = True

    def start_agent(self, name):
        agent = process(f"agent {name}", [self.hflex, "agent", "-C", str(self.config), "--join", self.address, "--name", name,
                                          *self.agent_words[name]], self.environment, self.folder / f"agent-{name}.log")
        self.agents[name] = agent
        if agent.wait_line(f"agent {name} joins") is None:
            self.violation(f"agent {name} says nothing after its start")

    def same_head(self, generation):
        return generation == self.generation and not self.down.is_set()

    def check_alive(self):
        """No process ends that nobody ended. An agent that did starts again, so that what follows is still worth something."""
        for one in [self.head, *self.agents.values()]:
            if one is not None and not one.alive() and not one.expected_end:
                one.expected_end = True
                self.violation(f"{one.name} (pid {one.pid}) ended by itself: {one.child.returncode}")
        if self.head.expected_end:
            return
        for name, agent in list(self.agents.items()):
            if not agent.alive():
                self.start_agent(name)

    def stop(self):
        """Ends all in good order, and looks for what is left."""
        for agent in self.agents.values():
            agent.expected_end = True
            agent.signal(signal.SIGCONT)
            agent.signal(signal.SIGTERM)
        for agent in self.agents.values():
            self.expect_end(agent, agent.wait_exit())
        self.head.expected_end = True
        self.head.signal(signal.SIGTERM)
        self.expect_end(self.head, self.head.wait_exit())
        self.watch.kill()

    def expect_end(self, one, code):
        if code == 0 or code == -signal.SIGKILL:
            return
        self.violation(f"{one.name} ended with {code} after SIGTERM" if code is not None else f"{one.name} does not end after SIGTERM")
        if code is None:
            one.kill()

    def leftovers(self):
        """Processes and shared memory that outlive the cluster."""
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.mark.encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes():
                    left.append(f"process {pid}: " + pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
            except OSError:
                pass  # gone, or somebody else's
        return left + [f"/dev/shm/{n}" for n in set(os.listdir("/dev/shm")) - self.shm_before if "hflex" in n]

    # ---- commands ----

    def run(self, words, text=None, longest=PATIENCE_S, code=None):
        """A command to its end: (exit code, output, errors). Ends it, and says so, when it takes too long. With `code`
        any other exit code is a violation."""
        try:
            done = subprocess.run([self.hflex, *words], input=text, capture_output=True, text=True, errors="replace",
                                  timeout=longest, env=self.environment)
        except subprocess.TimeoutExpired as late:
            self.violation(f"hflex {' '.join(words)} does not end within {longest} s: {(late.stdout or b'')[-200:]} {(late.stderr or b'')[-200:]}")
            return 124, "", ""
        if done.returncode not in (0, 1, 2) or (code is not None and done.returncode != code):
            self.violation(f"hflex {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.returncode, done.stdout, done.stderr

    def topology(self):
        code, out, _ = self.run(["topology", "-o", "json"])
        return json.loads(out) if code == 0 else None

    def instances(self):
        return [a for a in (self.topology() or {"actors": []})["actors"] if a["kind"] == "instance"]

    def jobs(self):
        code, out, _ = self.run(["jobs", "-o", "json", "--limit", "200"])
        return json.loads(out) if code == 0 else {"in_flight": 0, "jobs": []}

    def until(self, what, wanted, longest=PATIENCE_S):
        """Asks for the topology until it is as wanted: again at every event, and now and then for what has no event."""
        deadline = time.monotonic() + longest
        while True:
            heard = len(self.watch.lines)
            now = self.topology()
            if now is not None and wanted(now):
                return now
            self.check_alive()
            if time.monotonic() > deadline:
                self.violation(f"the topology never had: {what}\n{self.run(['topology'])[1]}")
                return None
            self.watch.wait_more(heard, 0.3)

    def node(self, topology, name):
        return next((n for n in topology["nodes"] if n["name"] == name), {})

    def until_node(self, name, state, longest=PATIENCE_S):
        return self.until(f"node {name} {state}", lambda t: self.node(t, name).get("state") == state, longest)

    # ---- at rest ----

    def rested(self, topology):
        """All nodes there, as many instances as configured, ready, idle, and none of their KV blocks in use."""
        instances = [a for a in topology["actors"] if a["kind"] == "instance"]
        roles = {a["role"] for a in instances}
        return (all(self.node(topology, n).get("state") == "up" for n in self.agent_words) and
                self.least <= len(instances) <= self.most and
                (self.mode == "collocated" or "mixed" in roles or {"prefill", "decode"} <= roles) and
                all(a["state"] == "ready" and a["running"] == 0 and a["waiting"] == 0 and
                    a["kv_blocks_free"] == a["kv_blocks_total"] for a in instances) and
                all(link["state"] in ("open", "done") for link in topology["links"]))

    def unexplained_log_lines(self, explained):
        """Warnings and worse that none of the patterns explains, and what no process should ever say."""
        found = []
        level = re.compile(r"^\S+ \S+ (warning|error|critical) ")
        never = re.compile(r"terminate called|Assertion|HFLEX_CHECK|invariant|AddressSanitizer|ThreadSanitizer|runtime error|\*\*\*")
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if never.search(line) or (level.match(line) and not any(re.search(e, line) for e in explained)):
                    found.append(f"{log.name}: {line[:300]}")
        return found
