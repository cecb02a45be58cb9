// exp, exp2, log and log1p of doubles for csrc/testing/kernel_digests.cpp, in place of the C
// library's: float64 kernels call those, and two libraries, or one on two processors, may differ in
// the last bit. Precise to a few units in the last place, which is all that a comparison needs.
#include <cmath>

namespace {

constexpr double kLn2 = 0x1.62e42fefa39efp-1;

// e^r for |r| <= ln(2) / 2: 18 terms of the series leave less than a unit in the last place.
double exp_series(double r) {
  double sum = 1;
  for (int n = 18; n >= 1; --n) sum = 1 + sum * r / n;
  return sum;
}

// log((1 + z) / (1 - z)) for |z| <= 1/3: 2 (z + z^3 / 3 + z^5 / 5 + ...).
double log_series(double z) {
  double sum = 0;
  for (int n = 33; n >= 1; n -= 2) sum = sum * z * z + 1.0 / n;
  return 2 * z * sum;
}

} // namespace

extern "C" {

double exp2(double x) {
  if (x < -1000) return 0;
  const double whole = std::floor(x + 0.5);
  return std::ldexp(exp_series((x - whole) * kLn2), static_cast<int>(whole));
}

double exp(double x) { return exp2(x / kLn2); }

double log(double x) {
  int exponent;
  const double mantissa = std::frexp(x, &exponent); // in [1/2, 1)
  return exponent * kLn2 + log_series((mantissa - 1) / (mantissa + 1));
}

double log1p(double x) { return log_series(x / (2 + x)); }

} // extern "C"
