// wire::msg<Schema>: the one CAF message element that carries any Cap'n Proto struct.
//
// An immutable, reference-counted, flat word array. Inside a process delivering it copies a pointer; across nodes its
// words are written once, as they are. The builder leaves room for the segment table in front of the first segment, so
// that finishing a single-segment message (every control message) copies nothing.
//
// Foreign bytes are checked in three steps: size against the bound and against what is left of the frame (CAF does
// not), the segment table when loading, and pointers lazily by Cap'n Proto under a traversal and a nesting limit when
// reading. Malformed content throws kj::Exception on access: register handlers through wire::on (compat.hpp), which
// catches it.
#pragma once
#include <atomic>
#include <caf/all.hpp>
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace hflex::wire {

/// Largest control message accepted from a peer. KV and weights never ride in messages, prompts do.
inline constexpr std::size_t max_message_bytes = std::size_t{16} << 20U;
inline constexpr int nesting_limit = 32;

/// Shared, immutable once published, 8-byte aligned words with an intrusive count.
class shared_words {
public:
  shared_words() noexcept = default;
  shared_words(const shared_words& other) noexcept : head_(other.head_) {
    if (head_ != nullptr) head_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  shared_words(shared_words&& other) noexcept : head_(std::exchange(other.head_, nullptr)) {}
  shared_words& operator=(shared_words other) noexcept {
    std::swap(head_, other.head_);
    return *this;
  }
  ~shared_words() {
    if (head_ != nullptr && head_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) std::free(head_);
  }

  /// `zeroed` is for builders, which rely on it.
  static shared_words allocate(std::size_t words, bool zeroed) {
    auto bytes = sizeof(header) + words * sizeof(capnp::word);
    void* memory = zeroed ? std::calloc(1, bytes) : std::malloc(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    shared_words result;
    result.head_ = new (memory) header{};
    result.head_->refs.store(1, std::memory_order_relaxed);
    result.head_->words = words;
    return result;
  }

  capnp::word* data() const noexcept { return reinterpret_cast<capnp::word*>(head_ + 1); }
  std::size_t size() const noexcept { return head_ != nullptr ? head_->words : 0; }
  std::size_t bytes() const noexcept { return size() * sizeof(capnp::word); }
  void shrink(std::size_t words) noexcept { head_->words = words; }
  bool unique() const noexcept { return head_ != nullptr && head_->refs.load(std::memory_order_acquire) == 1; }
  explicit operator bool() const noexcept { return head_ != nullptr; }

private:
  struct header {
    std::atomic<std::uint32_t> refs;
    std::uint64_t words;
  };
  static_assert(sizeof(header) == 16);
  header* head_{nullptr};
};

/// Builds into shared words: [segment table][first segment], further segments (rare) are joined by finish().
class flat_builder final : public capnp::MessageBuilder {
public:
  explicit flat_builder(std::size_t hint_words) : hint_(hint_words < 16 ? 16 : hint_words) {}

  kj::ArrayPtr<capnp::word> allocateSegment(unsigned minimum) override {
    auto words = std::max<std::size_t>(minimum, hint_);
    if (!first_) {
      first_ = shared_words::allocate(words + 1, true);
      return kj::arrayPtr(first_.data() + 1, words);
    }
    more_.push_back(shared_words::allocate(words, true));
    return kj::arrayPtr(more_.back().data(), words);
  }

  shared_words finish() {
    auto segments = getSegmentsForOutput();
    if (segments.size() == 1 && segments[0].begin() == first_.data() + 1) {
      std::uint32_t table[2] = {0, static_cast<std::uint32_t>(segments[0].size())};
      std::memcpy(first_.data(), table, sizeof(table));
      first_.shrink(segments[0].size() + 1);
      return first_;
    }
    auto flat = capnp::messageToFlatArray(segments);
    auto joined = shared_words::allocate(flat.size(), false);
    std::memcpy(joined.data(), flat.begin(), flat.size() * sizeof(capnp::word));
    return joined;
  }

private:
  std::size_t hint_;
  shared_words first_;
  std::vector<shared_words> more_;
};

/// Keeps the words alive while they are read. Not copyable: hold it for as long as its reader.
template <class Schema>
class view {
public:
  explicit view(shared_words words)
      : words_(std::move(words)), reader_(kj::arrayPtr(words_.data(), words_.size()), limits(words_.size())),
        root_(reader_.template getRoot<Schema>()) {}
  view(const view&) = delete;
  view& operator=(const view&) = delete;
  typename Schema::Reader* operator->() { return &root_; }
  typename Schema::Reader& operator*() { return root_; }

private:
  static capnp::ReaderOptions limits(std::size_t words) {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = words * 4 + 4096; // amplification by shared pointers is bounded by 4
    options.nestingLimit = nesting_limit;
    return options;
  }
  shared_words words_;
  capnp::FlatArrayMessageReader reader_;
  typename Schema::Reader root_;
};

template <class Schema>
class msg {
public:
  using schema = Schema;

  msg() noexcept = default;
  explicit msg(shared_words words) : words_(std::move(words)) {}

  /// `fill(typename Schema::Builder)`; `hint_words` saves a segment when the size is known to be large.
  template <class Fill>
  static msg make(Fill&& fill, std::size_t hint_words = 30) {
    flat_builder builder{hint_words};
    fill(builder.initRoot<Schema>());
    return msg{builder.finish()};
  }

  /// Throws kj::Exception when the words are malformed.
  view<Schema> read() const { return view<Schema>{words_ ? words_ : empty()}; }
  const shared_words& words() const noexcept { return words_; }

private:
  static const shared_words& empty() {
    static const shared_words words = [] {
      flat_builder builder{1};
      builder.initRoot<Schema>();
      return builder.finish();
    }();
    return words;
  }
  shared_words words_;
};

/// Segment table sane for this many words; contents are checked by Cap'n Proto when they are read.
bool plausible(const shared_words& words);

template <class Inspector, class Schema>
typename Inspector::result_type inspect(Inspector& f, msg<Schema>& x) {
  if constexpr (std::is_base_of_v<caf::serializer, Inspector>) {
    auto bytes = x.words().bytes();
    if (auto failed = f.begin_sequence(bytes)) return failed;
    if (bytes > 0)
      if (auto failed = f.apply_raw(bytes, x.words().data())) return failed;
    return f.end_sequence();
  } else if constexpr (std::is_base_of_v<caf::deserializer, Inspector>) {
    std::size_t bytes = 0;
    if (auto failed = f.begin_sequence(bytes)) return failed;
    if (bytes == 0) {
      x = msg<Schema>{};
      return f.end_sequence();
    }
    if (bytes % sizeof(capnp::word) != 0 || bytes > max_message_bytes) return caf::sec::invalid_argument;
    if (auto* binary = dynamic_cast<caf::binary_deserializer*>(static_cast<caf::deserializer*>(&f)))
      if (bytes > binary->remaining()) return caf::sec::end_of_stream;
    auto words = shared_words::allocate(bytes / sizeof(capnp::word), false);
    if (auto failed = f.apply_raw(bytes, words.data())) return failed;
    if (!plausible(words)) return caf::sec::invalid_argument;
    x = msg<Schema>{std::move(words)};
    return f.end_sequence();
  } else {
    auto size = std::to_string(x.words().bytes());
    return f(caf::meta::type_name("capnp"), size);
  }
}

} // namespace hflex::wire
