// `hflex topology` and `hflex ready`: the live topology, once or as it changes.
#include "actors/cluster/topology_render.hpp"
#include "actors/wire/convert_topology.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/terminal.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include "tools/runtime/process.hpp"
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

struct topology_flags {
  head_options head;
  output format{output::text};
  bool watch{false};
  bool events{false};
};

struct ready_flags {
  head_options head;
  std::uint32_t instances{1};
  double longest_s{60};
};

struct numbered_snapshot {
  cluster::snapshot view;
  std::uint64_t last_event{};
  std::uint64_t first_event{}; ///< the oldest that the head still has
};

result<numbered_snapshot> ask_snapshot(runtime::head_client& client, duration timeout) {
  auto answer = client.ask<msg<s::Snapshot>>(client.cluster(), timeout, msg<s::SnapshotQuery>{});
  if (!answer) return pass(answer.error());
  auto in = answer->read();
  return numbered_snapshot{wire::read(*in), in->getLastEvent(), in->getFirstEvent()};
}

result<void> subscribe(runtime::head_client& client, std::uint64_t after, duration timeout) {
  auto question = msg<s::Subscribe>::make([&](s::Subscribe::Builder out) { out.setAfterEvent(after); });
  auto answer = client.ask<msg<s::Ack>>(client.cluster(), timeout, question, client.self());
  if (!answer) return pass(answer.error());
  return {};
}

void print(const cluster::snapshot& view, output format) {
  std::string text;
  switch (format) {
  case output::text:
    text = cluster::render_tree(view, {cli::detect_terminal(1).colours});
    break;
  case output::json:
    text = cluster::render_json(view) + "\n";
    break;
  case output::dot:
    text = cluster::render_dot(view);
    break;
  }
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

std::string clock_time(std::uint64_t unix_ms) {
  auto seconds = static_cast<std::time_t>(unix_ms / 1000);
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[16];
  std::strftime(text, sizeof(text), "%H:%M:%S", &parts);
  return fmt::format("{}.{:03}", text, unix_ms % 1000);
}

std::string event_json(const cluster::cluster_event& e, std::uint64_t unix_ms) {
  nlohmann::ordered_json j;
  j["sequence"] = e.sequence;
  j["unix_ms"] = unix_ms;
  j["epoch"] = e.epoch;
  j["change"] = to_string(e.what);
  j["subject"] = e.subject;
  j["detail"] = e.detail;
  return cli::json_line(j);
}

void print_event(s::Event::Reader in, output format) {
  auto e = wire::read(in);
  if (format == output::json)
    std::fputs(event_json(e, in.getUnixMs()).c_str(), stdout);
  else
    std::printf("%s %s\n", clock_time(in.getUnixMs()).c_str(), cluster::render_event(e).c_str());
}

/// By the user, or because nothing that is printed arrives any more.
bool interrupted() {
  const auto signal = runtime::next_signal(duration{0});
  return signal == SIGINT || signal == SIGTERM || std::ferror(stdout) != 0 || cli::reader_gone(1);
}

/// A line per event: readable in a log. In a terminal the tree is drawn anew before it, so that the current state is in
/// view.
int watch(runtime::head_client& client, const topology_flags& f, std::uint64_t after) {
  auto timeout = from_s(f.head.timeout_s);
  if (auto ok = subscribe(client, after, timeout); !ok) return report(ok.error());
  auto terminal = cli::detect_terminal(1);
  auto redraw = terminal.is_terminal && f.format == output::text;
  while (true) {
    if (interrupted()) return cli::exit_done;
    auto event = client.events().take(std::chrono::milliseconds{redraw ? 1000 : 200});
    if (event && std::holds_alternative<runtime::head_lost>(*event))
      return report({errc::reroute, "the head is gone: " + std::get<runtime::head_lost>(*event).reason});
    if (!event || redraw) {
      if (!redraw) continue;
      auto snapshot = ask_snapshot(client, timeout);
      if (!snapshot) return report(snapshot.error());
      std::fputs("\033[H\033[2J", stdout);
      print(snapshot->view, f.format);
    }
    if (!event) continue;
    if (const auto* m = std::get_if<msg<s::Event>>(&*event)) {
      print_event(*m->read(), f.format);
      std::fflush(stdout);
    }
  }
}

/// What the head still knows, oldest first, up to the snapshot's last event; with --watch it goes on from there.
int show_events(const topology_flags& f) {
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  const auto timeout = from_s(f.head.timeout_s);
  auto snapshot = ask_snapshot(**client, timeout);
  if (!snapshot) return report(snapshot.error());
  if (auto ok = subscribe(**client, snapshot->first_event - 1, timeout); !ok) return report(ok.error());
  auto seen = snapshot->first_event - 1;
  while (f.watch || seen < snapshot->last_event) {
    if (interrupted()) break;
    auto event = (*client)->events().take(f.watch ? duration{std::chrono::milliseconds{200}} : timeout);
    if (!event && f.watch) continue;
    if (!event) return report({errc::retry, "the head stopped telling its events"});
    if (const auto* lost = std::get_if<runtime::head_lost>(&*event))
      return report({errc::reroute, "the head is gone: " + lost->reason});
    if (const auto* m = std::get_if<msg<s::Event>>(&*event)) {
      auto in = m->read();
      seen = in->getSeq();
      print_event(*in, f.format);
      if (f.watch) std::fflush(stdout);
    }
  }
  return cli::exit_done;
}

int show(const topology_flags& f) {
  runtime::hold_signals();
  if (f.events) return show_events(f);
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto snapshot = ask_snapshot(**client, from_s(f.head.timeout_s));
  if (!snapshot) return report(snapshot.error());
  print(snapshot->view, f.format);
  return f.watch ? watch(**client, f, snapshot->last_event) : static_cast<int>(cli::exit_done);
}

std::size_t ready_instances(const cluster::snapshot& view) {
  return static_cast<std::size_t>(std::count_if(view.actors.begin(), view.actors.end(),
      [](const auto& a) { return a.kind == "instance" && a.state == "ready"; }));
}

int wait_ready(const ready_flags& f) {
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto view = wait_for_instances(**client, f.instances, from_s(f.longest_s), from_s(f.head.timeout_s));
  if (!view) return report(view.error());
  std::printf("%zu instances ready\n", ready_instances(*view));
  return cli::exit_done;
}

} // namespace

result<cluster::snapshot> wait_for_instances(
    runtime::head_client& client, std::size_t wanted, duration longest, duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + longest;
  auto snapshot = ask_snapshot(client, timeout);
  if (!snapshot) return pass(snapshot.error());
  if (auto ok = subscribe(client, snapshot->last_event, timeout); !ok) return pass(ok.error());
  while (ready_instances(snapshot->view) < wanted) {
    auto left = deadline - std::chrono::steady_clock::now();
    auto event = left > duration{0} ? client.events().take(std::chrono::duration_cast<duration>(left)) : std::nullopt;
    if (!event)
      return fail(errc::retry, "{} of {} instances ready after {:g} s; `hflex topology` shows what is there",
          ready_instances(snapshot->view), wanted, to_s(longest));
    if (const auto* lost = std::get_if<runtime::head_lost>(&*event))
      return fail(errc::reroute, "the head is gone: {}", lost->reason);
    snapshot = ask_snapshot(client, timeout);
    if (!snapshot) return pass(snapshot.error());
  }
  return std::move(snapshot->view);
}

runner add_topology(CLI::App& app) {
  auto f = std::make_shared<topology_flags>();
  app.add_option("-o,--output", f->format, "tree, json or dot (Graphviz)")
      ->transform(
          one_of(std::map<std::string, output>{{"tree", output::text}, {"json", output::json}, {"dot", output::dot}}))
      ->option_text("tree|json|dot");
  app.add_flag("-e,--events", f->events,
      "What happened to nodes, instances, roles and links, each with its time; with json one document per line");
  app.add_flag("-w,--watch", f->watch, "Go on with every change, until interrupted");
  add_head_options(app, f->head);
  add_examples(app, "  hflex topology\n  hflex topology --watch\n  hflex topology --events -o json\n  hflex topology "
                    "-o dot | dot -Tsvg > topology.svg");
  return [f] { return show(*f); };
}

runner add_ready(CLI::App& app) {
  auto f = std::make_shared<ready_flags>();
  app.add_option("--instances", f->instances, "How many must be ready")
      ->capture_default_str()
      ->check(CLI::Range(1U, 100000U));
  app.add_option("--for-s", f->longest_s, "Longest wait, in seconds")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
  add_head_options(app, f->head);
  add_examples(app, "  hflex ready\n  hflex ready --instances 2 --for-s 30 && hflex submit -p 'Hello'");
  return [f] { return wait_ready(*f); };
}

} // namespace hflex::commands
