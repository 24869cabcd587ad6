// SPDX-License-Identifier: MIT
// Reference board for the driver `serial`: two DC motors on an H-bridge, two quadrature encoders,
// lines of text at 115200 baud. The table of lines is in ../../serial_text.py.
//
// Its own dead-man: without a valid V for DEADMAN_MS both motors stop, whatever the host does.
// The stop input is wired as a normally closed contact to ground: an open or broken wire stops.

#include <stdio.h>
#include <string.h>

const int LEFT_FORWARD = 5, LEFT_BACK = 6, RIGHT_FORWARD = 9, RIGHT_BACK = 10;
const int LEFT_A = 2, LEFT_B = 4, RIGHT_A = 3, RIGHT_B = 7;
const int STOP_PIN = 8, BUMPER_PIN = 11, BATTERY_PIN = A0;
const long BATTERY_MV_FULL_SCALE = 0;  // divider ratio x reference; 0: no battery is measured
const long WHEEL_MAX = 4000;           // ticks/s
const unsigned long DEADMAN_MS = 500, CONTROL_MS = 10;
const float GAIN_P = 0.02, GAIN_I = 0.10;  // PWM steps per tick/s, and per tick

volatile long left_ticks = 0, right_ticks = 0;
long want_left = 0, want_right = 0, last_left = 0, last_right = 0;
float sum_left = 0, sum_right = 0;
unsigned long last_command_ms = 0, last_control_ms = 0;
char line[48];
unsigned char used = 0;
bool too_long = false;

void left_edge() { left_ticks += digitalRead(LEFT_A) == digitalRead(LEFT_B) ? 1 : -1; }
void right_edge() { right_ticks += digitalRead(RIGHT_A) == digitalRead(RIGHT_B) ? 1 : -1; }

void motor(int forward, int back, int power) {
  power = constrain(power, -255, 255);
  analogWrite(forward, power > 0 ? power : 0);
  analogWrite(back, power < 0 ? -power : 0);
}

void halt_motors() {
  want_left = want_right = 0;
  sum_left = sum_right = 0;
  motor(LEFT_FORWARD, LEFT_BACK, 0);
  motor(RIGHT_FORWARD, RIGHT_BACK, 0);
}

bool stop_pressed() { return digitalRead(STOP_PIN) == HIGH; }

void say(const char *text) {
  unsigned char check = 0;
  for (const char *p = text; *p; p++) check ^= *p;
  char end[6];
  snprintf(end, sizeof end, "*%02X\n", check);
  Serial.print(text);
  Serial.print(end);
}

void answer(char *text) {
  char *star = strchr(text, '*');
  if (!star) return;
  unsigned int given;
  if (sscanf(star + 1, "%2x", &given) != 1) return;
  unsigned char check = 0;
  for (char *p = text; p < star; p++) check ^= *p;
  if (check != given) return;  // a torn line moves nothing
  *star = 0;
  char out[64];
  long left, right;
  if (text[0] == 'V' && sscanf(text + 1, "%ld %ld", &left, &right) == 2) {
    if (stop_pressed()) {
      halt_motors();
    } else {
      want_left = constrain(left, -WHEEL_MAX, WHEEL_MAX);
      want_right = constrain(right, -WHEEL_MAX, WHEEL_MAX);
      last_command_ms = millis();
      if (!want_left && !want_right) halt_motors();
    }
    snprintf(out, sizeof out, "v %ld %ld", want_left, want_right);
    say(out);
  } else if (text[0] == 'S') {
    halt_motors();
    say("v 0 0");
  } else if (text[0] == 'Q') {
    noInterrupts();
    unsigned long l = left_ticks, r = right_ticks;
    interrupts();
    long millivolts = BATTERY_MV_FULL_SCALE * analogRead(BATTERY_PIN) / 1023;
    int flags = (digitalRead(BUMPER_PIN) == LOW ? 1 : 0) | (stop_pressed() ? 2 : 0);
    snprintf(out, sizeof out, "q %lu %lu %ld %d", l & 0xFFFFFFFFUL, r & 0xFFFFFFFFUL, millivolts,
             flags);
    say(out);
  } else if (text[0] == 'I') {
    snprintf(out, sizeof out, "i kofn1 arduino-1 %ld %lu", WHEEL_MAX, DEADMAN_MS);
    say(out);
  } else {
    say("e unknown");
  }
}

int power_for(long want, long now, long *last, float *sum) {
  float speed = (now - *last) * (1000.0 / CONTROL_MS);
  *last = now;
  if (!want) return 0;
  float error = want - speed;
  *sum = constrain(*sum + error * GAIN_I * CONTROL_MS / 1000.0, -255, 255);
  return (int)(error * GAIN_P + *sum);
}

void setup() {
  pinMode(LEFT_FORWARD, OUTPUT);
  pinMode(LEFT_BACK, OUTPUT);
  pinMode(RIGHT_FORWARD, OUTPUT);
  pinMode(RIGHT_BACK, OUTPUT);
  halt_motors();
  pinMode(LEFT_A, INPUT_PULLUP);
  pinMode(LEFT_B, INPUT_PULLUP);
  pinMode(RIGHT_A, INPUT_PULLUP);
  pinMode(RIGHT_B, INPUT_PULLUP);
  pinMode(STOP_PIN, INPUT_PULLUP);
  pinMode(BUMPER_PIN, INPUT_PULLUP);
  attachInterrupt(digitalPinToInterrupt(LEFT_A), left_edge, CHANGE);
  attachInterrupt(digitalPinToInterrupt(RIGHT_A), right_edge, CHANGE);
  Serial.begin(115200);
}

void loop() {
  unsigned long now = millis();
  if ((want_left || want_right) && (now - last_command_ms >= DEADMAN_MS || stop_pressed())) {
    halt_motors();
  }
  if (now - last_control_ms >= CONTROL_MS) {
    last_control_ms = now;
    noInterrupts();
    long l = left_ticks, r = right_ticks;
    interrupts();
    motor(LEFT_FORWARD, LEFT_BACK, power_for(want_left, l, &last_left, &sum_left));
    motor(RIGHT_FORWARD, RIGHT_BACK, power_for(want_right, r, &last_right, &sum_right));
  }
  while (Serial.available()) {
    char c = Serial.read();
    if (c == '\n') {
      line[used] = 0;
      if (!too_long) answer(line);
      used = 0;
      too_long = false;
    } else if (used + 1 < sizeof line) {
      line[used++] = c;
    } else {
      too_long = true;
    }
  }
}
