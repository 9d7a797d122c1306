"""What tools/paper found, as files: summary.csv, charts (SVG) and report.md. Runs nothing."""
import csv
import datetime

VLLM_LIKE = ("round_robin", "least_loaded")
OURS = "hyperflexis"
FLIPS = "hyperflexis_flips"
NOT_PUBLISHED = (OURS, FLIPS, "oracle")
BOUND = "bound"
FIGURES = ("attainment", "weighted_attainment", "strict_attainment", "goodput_rps", "ttft_ms_mean", "ttft_ms_p50",
           "ttft_ms_p99", "tpot_ms_mean", "tpot_ms_p50", "tpot_ms_p99", "e2e_ms_mean", "e2e_ms_p99", "cost_instance_s",
           "cost_device_s", "shed", "preemptions", "migrations")
COLOURS = {OURS: "#d62728", FLIPS: "#ff9896", "oracle": "#7f7f7f", "round_robin": "#1f77b4", "least_loaded": "#17becf",
           "power_of_two": "#aec7e8", "aladdin": "#ff7f0e", "polyserve": "#2ca02c", "slos_serve": "#9467bd",
           "scorpio": "#8c564b", "llumnix": "#e377c2", "qoserve": "#bcbd22"}
# Attainment that differs by less than this share of the requests is called the same: a handful of requests.
TIE = 0.002


class results:
    """(cluster, workload, mode) -> load -> policy -> figures of the whole run."""

    def __init__(self, finished):
        self.at = {}
        self.bound = {}  # (cluster, workload, mode) -> load -> attainment that no policy exceeds
        for s in finished:
            whole = next(row for row in s["rows"] if row["class"] == "(all)")
            if s["policy"] == BOUND:
                case = (s["cluster"], s["workload"], s["mode"])
                self.bound.setdefault(case, {})[s["load"]] = float(whole["attainment_bound"])
                continue
            figures = {name: float(whole[name] or "nan") for name in FIGURES}
            figures["requests"] = int(whole["requests"])
            case = (s["cluster"], s["workload"], s["mode"])
            self.at.setdefault(case, {}).setdefault(s["load"], {})[s["policy"]] = figures

    def points(self):
        """Those at which our policy and somebody else have run."""
        for case in sorted(self.at):
            for load in sorted(self.at[case]):
                if OURS in self.at[case][load] and len(self.at[case][load]) > 1:
                    yield case, load, self.at[case][load]

    def capacity(self, case, policy, wanted=0.9):
        """(load, exact?): up to which the policy attains `wanted`, between measured loads linearly."""
        if policy == BOUND:
            known = sorted(self.bound.get(case, {}).items())
        else:
            known = sorted((load, of[policy]["attainment"]) for load, of in self.at[case].items() if policy in of)
        if not known or known[0][1] < wanted:
            return (known[0][0] if known else 0.0, "<")
        for (l0, a0), (l1, a1) in zip(known, known[1:]):
            if a1 < wanted:
                return (l0 + (l1 - l0) * (a0 - wanted) / (a0 - a1), "")
        return (known[-1][0], ">=")


def percent(x):
    return f"{100 * x:.1f} %"


def where(case, load=None):
    return " ".join(case) + (f" at {load:g}" if load is not None else "")


def versus_all(r):
    lines, worst, count = [], [], 0
    for case, load, of in r.points():
        others = {p: f["attainment"] for p, f in of.items() if p not in NOT_PUBLISHED}
        if not others:
            continue
        count += 1
        best = max(others, key=others.get)
        gap = others[best] - of[OURS]["attainment"]
        if gap > TIE:
            worst.append((gap, f"| {where(case)} | {load:g} | {percent(of[OURS]['attainment'])} | {best} | "
                               f"{percent(others[best])} | {100 * gap:.1f} |"))
    lines.append(f"**At or above every published policy at every point: {'met' if not worst else 'not met'}** - at "
                 f"{count - len(worst)} of {count} points (a difference of {100 * TIE:g} points or less is a tie).")
    if worst:
        lines += ["", "| where | load | hyperflexis | better | attains | by (points) |", "|---|---|---|---|---|---|"]
        lines += [line for _, line in sorted(worst, reverse=True)]
    return lines


def with_role_flips(r):
    own, gains, behind, better = [], [], [], 0
    for case, load, of in r.points():
        others = [f["attainment"] for p, f in of.items() if p not in NOT_PUBLISHED]
        if FLIPS not in of or not others:
            continue
        flips, fixed = of[FLIPS]["attainment"], of[OURS]["attainment"]
        own.append(flips)
        gains.append((flips - fixed, where(case, load)))
        better += flips > fixed + TIE
        if max(others) > flips + TIE:
            behind.append((100 * (max(others) - flips), where(case, load)))
    if not own:
        return []
    most, least = max(gains), min(gains)
    lines = [f"**With P/D, when roles may change** (`{FLIPS}`: the fleet has the same instances throughout, and the scaler of the "
             f"runtime decides how many prefill; the published policies know no such thing): {percent(sum(own) / len(own))} in the "
             f"mean instead of {percent(sum(own) / len(own) - sum(g for g, _ in gains) / len(gains))}; more at {better} of "
             f"{len(own)} points, most {100 * most[0]:+.1f} ({most[1]}), least {100 * least[0]:+.1f} ({least[1]}). It is at or "
             f"above every published policy at {len(own) - len(behind)}."]
    if behind:
        lines.append("Behind: " + ", ".join(f"{point} by {gap:.1f}" for gap, point in sorted(behind, reverse=True)) + ".")
    return lines


def versus_round_robin(r):
    ratios, latencies = [], []
    for case, load, of in r.points():
        if "round_robin" not in of:
            continue
        own, other = of[OURS], of["round_robin"]
        # Of nearly nothing anything is a multiple: a ratio counts from 2 % attainment on.
        if other["attainment"] >= 0.02:
            ratios.append((own["attainment"] / other["attainment"], where(case, load), own, other))
        latencies.append((own["e2e_ms_mean"] / other["e2e_ms_mean"], where(case, load), own, other))
    if not latencies:
        return []
    lines = []
    if ratios:
        best = max(ratios, key=lambda x: x[0])
        lines.append(f"**Attainment up to 4.44 times round_robin's: {'met' if best[0] >= 4.44 else 'not met'}** - up to "
                     f"{best[0]:.1f} times ({best[1]}: {percent(best[2]['attainment'])} against "
                     f"{percent(best[3]['attainment'])}; points where round_robin attains under 2 % left out).")
    least = min(latencies, key=lambda x: x[0])
    lines += ["", f"**Mean end-to-end latency down to 34.18 % of round_robin's: {'met' if least[0] <= 0.3418 else 'not met'}** "
              f"- down to {percent(least[0])} ({least[1]}: {least[2]['e2e_ms_mean'] / 1e3:.1f} s against "
              f"{least[3]['e2e_ms_mean'] / 1e3:.1f} s)."]
    same = [x for x in latencies if x[2]["attainment"] >= 4.44 * x[3]["attainment"] > 0 and x[0] <= 0.3418]
    lines += ["", f"Both at the same point: {', '.join(x[1] for x in same) if same else 'nowhere'}."]
    return lines


def capacities(r):
    rows, vllm_ratios, best_ratios = [], [], []
    for case in sorted(r.at):
        policies = {p for of in r.at[case].values() for p in of}
        if OURS not in policies:
            continue
        own, sign = r.capacity(case, OURS)
        published = {p: r.capacity(case, p) for p in policies if p not in NOT_PUBLISHED}
        vllm = {p: published[p] for p in VLLM_LIKE if p in published}
        rest = {p: c for p, c in published.items() if p not in VLLM_LIKE}
        if not vllm or not rest:
            continue
        best_vllm = max(vllm, key=lambda p: vllm[p][0] if vllm[p][1] != "<" else 0)
        best = max(rest, key=lambda p: rest[p][0] if rest[p][1] != "<" else 0)
        ratios = []
        for name, ratio_list in ((best_vllm, vllm_ratios), (best, best_ratios)):
            load, other = published[name]
            if sign == "<":
                ratios.append("-")
                continue
            ratio = own / load
            bound = "" if not sign and not other else ">= " if other != ">=" else "? "
            ratios.append(f"{bound}{ratio:.2f}")
            if bound != "? ":
                ratio_list.append((ratio, where(case)))
        rows.append(f"| {where(case)} | {sign} {own:.2f} | {best_vllm} {published[best_vllm][1]} "
                    f"{published[best_vllm][0]:.2f} | {ratios[0]} | {best} {published[best][1]} {published[best][0]:.2f} | "
                    f"{ratios[1]} |")
    lines = []
    for name, wanted, found in (("the better of round_robin and least_loaded (vLLM-like)", 2.2, vllm_ratios),
                                ("the best of the others", 1.2, best_ratios)):
        if not found:
            continue
        met = [x for x in found if x[0] >= wanted]
        most = max(found)
        lines += [f"**Capacity at 90 % attainment {wanted} times that of {name}: "
                  f"{'met' if len(met) == len(found) else 'met in part' if met else 'not met'}** - in {len(met)} of "
                  f"{len(found)} cases; most: {most[0]:.2f} ({most[1]}).", ""]
    lines += ["Load up to which 90 % attain, between measured loads linearly; `<`: under 90 % at the lowest load measured, so "
              "that the ratio is a lower bound; `>=`: still 90 % at the highest.", "",
              "| where | hyperflexis | vLLM-like | ratio | best published | ratio |", "|---|---|---|---|---|---|", *rows]
    return lines


def versus_oracle(r):
    shares = []
    for case, load, of in r.points():
        if "oracle" in of and of["oracle"]["goodput_rps"] > 0:
            shares.append((of[OURS]["goodput_rps"] / of["oracle"]["goodput_rps"], where(case, load)))
    if not shares:
        return []
    below = sorted(x for x in shares if x[0] < 0.925)
    above = [x for x in shares if x[0] > 1.005]
    lines = [f"**At least 92.5 % of oracle's goodput: {'met' if not below else 'not met'}** - at {len(shares) - len(below)} of "
             f"{len(shares)} points; least {percent(min(shares)[0])} ({min(shares)[1]})."]
    if above:
        lines.append(f"`oracle` knows output lengths but is a heuristic, no upper bound: at {len(above)} points hyperflexis "
                     f"attains more (most: {percent(max(above)[0])} of it, {max(above)[1]}).")
    return lines


def versus_bound(r):
    shares = [(of[OURS]["attainment"] / r.bound[case][load], where(case, load)) for case, load, of in r.points()
              if r.bound.get(case, {}).get(load, 0) > 0]
    if not shares:
        return []
    least = min(shares)
    lines = [f"**Against what no policy can exceed** (`hflex simulate --bound`: it knows the future and shares time without "
             f"loss; proven, not attainable): hyperflexis attains {percent(sum(x for x, _ in shares) / len(shares))} of it in "
             f"the mean over {len(shares)} points; least {percent(least[0])} ({least[1]})."]
    lucky = [max(f["attainment"] for p, f in of.items() if p != FLIPS) - r.bound[case][load] for case, load, of in r.points()
             if load in r.bound.get(case, {})]
    if max(lucky) > 0:
        lines.append(f"It bounds the mean over the noise of step times: at {sum(x > 0 for x in lucky)} points some policy is above it "
                     f"by luck, by up to {100 * max(lucky):.2f} points.")
    lines.append("")
    rows, impossible, count = [], 0, 0
    for case in sorted(r.bound):
        published = [(r.capacity(case, p), p) for p in sorted({p for of in r.at.get(case, {}).values() for p in of})
                     if p not in NOT_PUBLISHED and p not in VLLM_LIKE]
        if not published:
            continue
        (load, sign), best = max(published, key=lambda x: x[0][0] if x[0][1] != "<" else 0)
        most, most_sign = r.capacity(case, BOUND)
        if most_sign == ">=" or (sign and not most_sign):
            continue
        count += 1
        impossible += most_sign == "<" or most / load < 1.2
        ratio = "no policy" if most_sign == "<" else f"{most / load:.2f}"
        best = "none" if sign == "<" else best
        cells = " / ".join(f"{100 * r.bound[case][at]:.1f}" for at in sorted(r.bound[case]))
        rows.append(f"| {where(case)} | {cells} | {most_sign} {most:.2f} | {best} {sign} {load:.2f} | {ratio} |")
    if rows:
        lines += [f"Where it is known, 1.2 times the best published policy's capacity is out of reach in {impossible} of {count} "
                  "cases.", "", "| where | at most attained by load, % | 90 % at most up to load | best published | ratio at most |",
                  "|---|---|---|---|---|", *rows]
    return lines


def tables(r, policies):
    lines = []
    for case in sorted(r.at):
        loads = sorted(r.at[case])
        lines += ["", f"### {where(case)}", "", "Attainment (strict attainment; mean end-to-end latency, s) by load.", "",
                  "| policy | " + " | ".join(f"{load:g}" for load in loads) + " |", "|---|" + "---|" * len(loads)]
        for policy in policies:
            cells = []
            for load in loads:
                f = r.at[case][load].get(policy)
                cells.append(f"{100 * f['attainment']:.1f} ({100 * f['strict_attainment']:.1f}; {f['e2e_ms_mean'] / 1e3:.1f})"
                             if f else "")
            if any(cells):
                lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return lines


def chart(of_case, case, policies):
    """Attainment and goodput against load, side by side."""
    width, height, left, top, gap = 330, 200, 46, 26, 70
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + gap + left + 130}" height="{height + 66}" '
           'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']
    loads = sorted(of_case)
    for i, (figure, title) in enumerate((("attainment", "attainment"), ("goodput_rps", "goodput, requests/s"))):
        x0 = left + i * (width + gap)
        most = 1.0 if i == 0 else max((f[figure] for of in of_case.values() for f in of.values()), default=1.0) * 1.05 or 1.0
        x = lambda load, x0=x0: x0 + width * load / max(loads)  # noqa: E731
        y = lambda v, most=most: top + height * (1 - v / most)  # noqa: E731
        out.append(f'<text x="{x0}" y="{top - 9}" font-weight="bold">{where(case)}: {title}</text>')
        out.append(f'<rect x="{x0}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>')
        for tick in range(5):
            v = most * tick / 4
            out.append(f'<text x="{x0 - 5}" y="{y(v) + 4:.0f}" text-anchor="end">{v:.2g}</text>'
                       if i == 0 else f'<text x="{x0 - 5}" y="{y(v) + 4:.0f}" text-anchor="end">{v:.0f}</text>')
        for load in loads:
            out.append(f'<text x="{x(load):.0f}" y="{top + height + 15}" text-anchor="middle">{load:g}</text>')
        out.append(f'<text x="{x0 + width / 2}" y="{top + height + 32}" text-anchor="middle">load, share of saturation</text>')
        for policy in reversed(policies):
            line = [(x(load), y(of_case[load][policy][figure])) for load in loads if policy in of_case[load]]
            if line:
                path = " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
                dash = ' stroke-dasharray="4 3"' if policy == "oracle" else ""
                out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS.get(policy, "#000")}" '
                           f'stroke-width="{2.6 if policy == OURS else 1.2}"{dash}/>')
    for i, policy in enumerate(policies):
        x, y = left + 2 * width + gap + 12, top + 10 + 16 * i
        out.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 16}" y2="{y - 4}" stroke="{COLOURS.get(policy, "#000")}" '
                   f'stroke-width="2"/><text x="{x + 21}" y="{y}">{policy}</text>')
    return "\n".join(out) + "\n</svg>\n"


def write_report(folder, finished, wanted, workloads, rates, policies, commit, quick):
    r = results(finished)
    with open(folder / "summary.csv", "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["cluster", "workload", "mode", "load", "policy", "requests", *FIGURES])
        for case in sorted(r.at):
            for load in sorted(r.at[case]):
                for policy in policies:
                    if policy in r.at[case][load]:
                        f = r.at[case][load][policy]
                        table.writerow([*case, load, policy, f["requests"], *(f"{f[name]:.5g}" for name in FIGURES)])
    charts = folder / "plots"
    charts.mkdir(exist_ok=True)
    for case in r.at:
        (charts / ("_".join(case) + ".svg")).write_text(chart(r.at[case], case, policies), encoding="utf-8")
    made_up = [name for name, _, real in workloads if not real]
    lines = ["# Scheduling policies, simulated", "",
             f"{datetime.date.today()}, commit {commit}, `tools/paper{' --quick' if quick else ''}`. {len(finished)} of {wanted} "
             "points have been run.", "",
             "Clusters: 8b = config/sim/h100x8-8b.yaml, 70b = config/sim/h100x32-70b.yaml; SLO classes: config/sim/slo_paper.yaml. "
             "Load 1 is the rate at which the fleet of that mode ends nine of ten requests when all of them wait from the start "
             "(`hflex simulate --load`), whatever their targets. vLLM-like = round_robin or least_loaded over chunked prefill, "
             "first come, first served, 2,048 tokens a step. Step times are modelled, with 3 % noise, and no policy but oracle "
             "knows an output length.", ""]
    if made_up:
        lines += [f"**Made up, because the traces are not here: {', '.join(made_up)}.** They have the traces' length quantiles and "
                  "bursty arrivals, but are not the traces.", ""]
    lines += ["## Targets", ""]
    for section in (versus_all, with_role_flips, versus_round_robin, capacities, versus_oracle, versus_bound):
        lines += [*section(r), ""]
    # Comparisons of scaling policies and of weight movement get a section of their own here.
    lines += ["## Workloads", "", "| workload | what | rate scale at load 1 |", "|---|---|---|"]
    for name, about, _ in workloads:
        scales = [f"{key.split('_')[0]} {key.split('_')[2]}: {of['scale']:.2f}" for key, of in sorted(rates.items())
                  if key.split("_")[1] == name]
        lines.append(f"| {name} | {about} | {', '.join(scales)} |")
    lines += ["", "## Figures", *tables(r, policies), ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
