/** Guards servlets, from Servlet 6.0 (Jakarta EE 10) on. */
package latchkey.servlet;
