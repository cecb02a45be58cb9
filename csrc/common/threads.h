// What parallel_for needs of the language's run time. Not in a level's namespace: no instruction
// set's objects may hold a copy of a standard class.
#pragma once

#include <exception>

namespace fastseg {

// The exception that ends a parallel region: an exception that left a thread of it would end the
// process. Of several, the first one counts.
class FirstError {
public:
  FirstError();
  ~FirstError();
  FirstError(const FirstError&) = delete;
  FirstError& operator=(const FirstError&) = delete;

  // Keeps the exception that is being handled. Any thread may call it.
  void keep() noexcept;
  // Whether there is one: what is left of the work is then not worth doing.
  bool kept() const { return __atomic_load_n(&kept_, __ATOMIC_RELAXED); }
  // Throws it, if there is one. For after the region.
  void rethrow() const;

private:
  bool kept_ = false;
  std::exception_ptr error_;
};

// How many threads, at most `wanted`, a parallel region of the calling thread will get. OpenMP ends
// the process if the system refuses it a thread (as under `ulimit -v` or `ulimit -u`), so this
// starts and ends as many threads first, once per calling thread.
int startable_threads(int wanted);

} // namespace fastseg
