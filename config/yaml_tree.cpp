#include "config/yaml_tree.hpp"
#include "config/fault.hpp"
#include <fmt/format.h>
#include <optional>
#include <sstream>
#include <utility>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

namespace hflex::config::yaml {

namespace {

position place(const YAML::Mark& mark) {
  if (mark.is_null()) return {};
  return {static_cast<std::uint32_t>(mark.line) + 1, static_cast<std::uint32_t>(mark.column) + 1};
}

/// Leaves yaml-cpp's parser; caught in parse().
struct stop {
  refusal why;
};

/// Builds the tree. `open_` holds the lists and maps that have not ended; a map waits for a key or for that key's
/// value.
class tree_builder final : public YAML::EventHandler {
public:
  explicit tree_builder(const limits& bounds) : bounds_(bounds) {}

  node take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(node_kind::nothing, mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw stop{{place(mark), "values written out", "an alias (*name)"}};
  }
  void OnScalar(
      const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (waits_for_key()) {
      pending_key_ = key_text{value, place(mark)};
      return;
    }
    node& scalar = add(node_kind::scalar, mark);
    scalar.text = value;
    scalar.quoted = tag == "!";
  }
  void OnSequenceStart(
      const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(node_kind::list, mark, tag, anchor);
  }
  void OnMapStart(
      const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(node_kind::map, mark, tag, anchor);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapEnd() override { open_.pop_back(); }

private:
  struct key_text {
    std::string text;
    position at;
  };

  static void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) throw stop{{place(mark), "values written out", "an anchor (&name)"}};
  }
  static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!") throw stop{{place(mark), "values without a tag", shown(tag)}};
  }

  bool waits_for_key() const { return !open_.empty() && open_.back()->kind == node_kind::map && !pending_key_; }

  void open(node_kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (open_.size() >= bounds_.max_depth)
      throw stop{{place(mark), fmt::format("at most {} levels", bounds_.max_depth), "a deeper one"}};
    open_.push_back(&add(kind, mark));
  }

  /// The new node's address holds while it is open: nothing is added to its parent before it ends.
  node& add(node_kind kind, const YAML::Mark& mark) {
    if (waits_for_key())
      throw stop{{place(mark), "a word as key and every bracket closed", "none, a list or a section"}};
    if (++nodes_ > bounds_.max_nodes)
      throw stop{{place(mark), fmt::format("at most {} values", bounds_.max_nodes), "more"}};
    node& added = open_.empty() ? root_ : open_.back()->children.emplace_back();
    added.kind = kind;
    added.at = place(mark);
    if (pending_key_) {
      added.key = std::move(pending_key_->text);
      added.key_at = pending_key_->at;
      if (kind == node_kind::nothing) added.at = added.key_at; // the mark of a missing value is that of what follows
      pending_key_.reset();
    }
    return added;
  }

  limits bounds_;
  node root_;
  std::vector<node*> open_;
  std::optional<key_text> pending_key_;
  std::size_t nodes_{};
};

} // namespace

tl::expected<node, refusal> parse(const std::string& text, const limits& bounds) {
  if (text.size() > bounds.max_bytes)
    return tl::unexpected(
        refusal{{}, fmt::format("at most {} bytes", bounds.max_bytes), fmt::format("{}", text.size())});
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    tree_builder first(bounds);
    if (!parser.HandleNextDocument(first)) return node{};
    tree_builder second(bounds);
    if (parser.HandleNextDocument(second))
      return tl::unexpected(refusal{second.take().at, "one YAML document", "a second one"});
    return first.take();
  } catch (const stop& s) {
    return tl::unexpected(s.why);
  } catch (const YAML::Exception& e) {
    return tl::unexpected(refusal{place(e.mark), "YAML", shown(e.msg)});
  }
}

} // namespace hflex::config::yaml
