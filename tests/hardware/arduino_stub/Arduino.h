// SPDX-License-Identifier: MIT
// A board for the sketch on this machine: the serial line is stdin and stdout, motors turn
// encoders in proportion to their power, and argv[1] is a file with 1 while a motor has power.
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT 1
#define INPUT_PULLUP 2
#define CHANGE 3
#define HIGH 1
#define LOW 0
#define A0 54
#define constrain(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))
#define digitalPinToInterrupt(pin) (pin)

void setup();
void loop();
extern volatile long left_ticks, right_ticks;
static int powers[64];
static int power_file = -1;

inline unsigned long micros() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000UL + t.tv_nsec / 1000;
}
inline unsigned long millis() { return micros() / 1000; }
inline void pinMode(int, int) {}
inline int digitalRead(int pin) { return pin == 8 ? LOW : HIGH; }  // stop contact closed
inline int analogRead(int) { return 0; }
inline void analogWrite(int pin, int value) { powers[pin] = value; }
inline void attachInterrupt(int, void (*)(), int) {}
inline void noInterrupts() {}
inline void interrupts() {}

struct SerialLine {
  void begin(long) {}
  bool available() {
    pollfd p = {0, POLLIN, 0};
    return poll(&p, 1, 0) > 0 && (p.revents & POLLIN);
  }
  int read() {
    char c = 0;
    return ::read(0, &c, 1) == 1 ? c : 0;
  }
  void print(const char *text) {
    size_t n = 0;
    while (text[n]) n++;
    if (::write(1, text, n) < 0) _exit(1);
  }
};
static SerialLine Serial;

int main(int, char **argv) {
  power_file = open(argv[1], O_RDWR | O_CREAT, 0600);
  termios raw;
  if (tcgetattr(0, &raw) == 0) {
    cfmakeraw(&raw);
    tcsetattr(0, TCSANOW, &raw);
  }
  setup();
  unsigned long last = micros();
  double left = 0, right = 0;
  char shown = '?';
  for (;;) {
    loop();
    unsigned long now = micros();
    double dt = (now - last) / 1e6;
    last = now;
    left += (powers[5] - powers[6]) * 16.0 * dt;  // 255 steps are 4080 ticks/s
    right += (powers[9] - powers[10]) * 16.0 * dt;
    left_ticks = (long)left;
    right_ticks = (long)right;
    char on = powers[5] || powers[6] || powers[9] || powers[10] ? '1' : '0';
    if (on != shown && pwrite(power_file, &on, 1, 0) == 1) shown = on;
    usleep(500);
  }
}
